"""Data sets that are known by name, below `$DETECTRON2_DATASETS`: registered when the package is imported."""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.data import cityscapes, coco_panoptic
from fisher_detr.data.categories import cityscapes_categories, coco_categories, coco_panoptic_categories
from fisher_detr.data.register import CocoDataset, datasets_root

# Detectron2's sets of COCO detection: it knows their categories, and nothing of their super-categories.
COCO_DETECTION = (
    "coco_2014_train",
    "coco_2014_val",
    "coco_2014_minival",
    "coco_2014_minival_100",
    "coco_2014_valminusminival",
    "coco_2017_train",
    "coco_2017_val",
    "coco_2017_val_100",
)


def register_builtin(root: str | os.PathLike | None = None) -> None:
    """Register COCO Panoptic and Cityscapes as detection, and tell Detectron2's COCO its super-categories.

    Nothing is read. A name that is registered already stays as it is.

    Args:
        root: folder of all data sets. None: what `$DETECTRON2_DATASETS` names, else `datasets`.
    """
    root = os.fspath(root or datasets_root())
    for name in COCO_DETECTION:
        if name in DatasetCatalog:
            supercategories = [category["supercategory"] for category in coco_categories()]
            MetadataCatalog.get(name).set(thing_supercategories=supercategories)
    for split in coco_panoptic.SPLITS:
        layout = coco_panoptic.layout(root, split)
        _register(
            f"coco_2017_{split}_panoptic_detection",
            str(layout.prepared),
            str(layout.images),
            coco_panoptic_categories(),
            "run python datasets/prepare_coco_panoptic.py --check, or set DETECTRON2_DATASETS "
            "to the folder that holds coco/",
        )
    for split in cityscapes.SPLITS:
        layout = cityscapes.layout(root, split)
        _register(
            f"cityscapes_fine_detection_{split}",
            str(layout.prepared),
            str(layout.images),
            cityscapes_categories(),
            "run python datasets/prepare_cityscapes.py --check, or set DETECTRON2_DATASETS "
            "to the folder that holds cityscapes/",
        )


def _register(
    name: str, json_file: str, image_root: str, categories: Sequence[dict[str, Any]], remedy: str
) -> None:
    if name in DatasetCatalog:
        return
    DatasetCatalog.register(name, CocoDataset(name, json_file, image_root, remedy=remedy))
    metadata = MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={category["id"]: i for i, category in enumerate(categories)},
        thing_supercategories=[category["supercategory"] for category in categories],
    )
    kinds = [category.get("isthing") for category in categories]
    if None not in kinds:
        things = tuple(i for i, thing in enumerate(kinds) if thing)
        stuff = tuple(i for i, thing in enumerate(kinds) if not thing)
        metadata.set(category_groups={"things": things, "stuff": stuff})
