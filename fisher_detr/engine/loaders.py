"""The images to train and to test on, from a config."""

import enum
import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    print_instances_class_histogram,
)
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader

from fisher_detr.data import DetrDatasetMapper, GlobalBatchSampler, TrainLoader, aspect_ratio_groups

logger = logging.getLogger(__name__)


class TrainSampler(enum.StrEnum):
    """How often each image comes in an epoch of a training."""

    ONCE = "TrainingSampler"
    REPEAT_FACTOR = "RepeatFactorTrainingSampler"  # images of rare categories more often


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """This rank's part of batches of augmented training images, without end.

    Raises:
        ValueError: no data set is named, there is no image, or the ranks cannot share a batch.
    """
    records = training_records(cfg)
    factors = None
    if cfg.DATALOADER.SAMPLER_TRAIN == TrainSampler.REPEAT_FACTOR:
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        )
    groups = aspect_ratio_groups(records) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    return TrainLoader(
        DatasetFromList(records, copy=False),  # pickled: each look at a record makes a new one
        DetrDatasetMapper(cfg, is_train=True),
        GlobalBatchSampler(len(records), cfg.SOLVER.IMS_PER_BATCH, groups=groups, repeat_factors=factors),
        seed=max(0, cfg.SEED),
        rank=comm.get_rank(),
        num_ranks=comm.get_world_size(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """All records of DATASETS.TRAIN, in Detectron2's standard format.

    Raises:
        ValueError: no data set is named, or there is no image in them.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to train on")
    records = [record for name in names for record in DatasetCatalog.get(name)]
    annotated = all("annotations" in record for record in records)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and annotated:
        records = filter_images_with_only_crowd_annotations(records)
    if not records:
        raise ValueError(
            f"DATASETS.TRAIN {', '.join(names)}: no image to train on; add some, or set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS to False where all are without objects"
        )
    classes = MetadataCatalog.get(names[0]).get("thing_classes")
    if classes and annotated:
        print_instances_class_histogram(records, classes)
    return records


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """This rank's part of the images of a data set, in order; Detectron2 0.6 knows batches of one image only.

    Ranks share whole batches: the images of a batch are padded to one size, and results depend a little on
    it, but not on the number of ranks.

    Raises:
        ValueError: there is no image.
    """
    records = DatasetCatalog.get(name)
    if not records:
        raise ValueError(f"data set {name!r} has no image to test on: name another one in DATASETS.TEST")
    images = MapDataset(DatasetFromList(records, copy=False), DetrDatasetMapper(cfg, is_train=False))
    size = cfg.TEST.IMS_PER_BATCH
    batches = [range(start, min(start + size, len(records))) for start in range(0, len(records), size)]
    return DataLoader(
        images,
        batch_sampler=[batches[i] for i in InferenceSampler(len(batches))],
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
    )
