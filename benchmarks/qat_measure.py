"""What is measured of a quantization-aware training: accuracy, loss and trace of the critical objective."""

from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.critical import resolve_category_sets
from fisher_detr.data import DetrDatasetMapper, sample_calibration_images
from fisher_detr.engine import Trainer, load_config
from fisher_detr.engine.commands import load_quantized
from fisher_detr.engine.post_training import image_losses
from fisher_detr.engine.qat import critical_set
from fisher_detr.fisher import estimate_fisher
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import quantized_layers, weight_offsets

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 256  # of each split, for losses and traces


def measure(config: str, overrides: tuple[str, ...], checkpoint: Path, folder: Path, split: str) -> dict:
    """Evaluate a quantized checkpoint.

    Args:
        config: of the training.
        overrides: its config keys and values.
        checkpoint: the model.
        folder: where detections go.
        split: of the street data to evaluate on.

    Returns:
        `metrics` (of "bbox"), `detections` (file of the trained-for set's), `categories` (its data set ids),
        `others` (names of the other sets), and for `train` and `split` mean `loss` and `trace` over images.
    """
    keys = ["MODEL.WEIGHTS", str(checkpoint), "DATASETS.TEST", (f"street_{split}",)]
    cfg = load_config(str(ROOT / config), [*overrides, *keys, "OUTPUT_DIR", str(folder / split)])
    model = load_quantized(cfg)
    metrics = Trainer.test(cfg, model)["bbox"]
    target = cfg.CRITICAL.TARGET
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    ids = {index: id_ for id_, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    sets = resolve_category_sets(cfg.CRITICAL.SETS, metadata)
    found = folder / split / "inference" / cfg.DATASETS.TEST[0] / f"critical_{target}_results.json"
    return {
        "metrics": {name: None if np.isnan(value) else value for name, value in metrics.items()},
        "target": target,
        "others": [chosen.name for chosen in sets if chosen.name != target],
        "detections": str(found),
        "annotations": str(metadata.json_file),
        "category_ids": [ids[index] for index in critical_set(cfg).indices],
        "train": critical_statistics(cfg, model, cfg.DATASETS.TRAIN[0]),
        "evaluated": critical_statistics(cfg, model, cfg.DATASETS.TEST[0]),
    }


def critical_statistics(cfg, model: DetrBase, data_set: str) -> dict[str, float]:
    """Mean critical loss of an image, trace of the critical Fisher information at the quantized weights."""
    records = sample_calibration_images(DatasetCatalog.get(data_set), IMAGES, seed=0)
    mapper = DetrDatasetMapper(cfg, is_train=False)
    of_both = image_losses(model.eval(), critical_set(cfg))
    losses = []

    def critical(record):
        loss = of_both(mapper(record))["critical"]
        losses.append(loss.item())
        return {"critical": loss}

    with weight_offsets(quantized_layers(model)) as offsets:
        fisher = estimate_fisher(critical, offsets, records, progress=False)
    return {"loss": float(np.mean(losses)), "trace": float(fisher.traces["critical"].sum())}
