"""Images of DATASETS.TRAIN to calibrate on, and others that come after them in the same draw."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from fisher_detr.data import DetrDatasetMapper, sample_calibration_images


def calibration_images(cfg: CfgNode) -> list[dict[str, Any]]:
    """QUANT.CALIBRATION.NUM_IMAGES images as the mapper makes them, with `instances`."""
    return _mapped(cfg, _drawn(cfg, cfg.QUANT.CALIBRATION.NUM_IMAGES))


def held_out_images(cfg: CfgNode) -> list[dict[str, Any]]:
    """FISHER.VALIDATE_IMAGES images that are not calibrated on; as many as there are, and two at least.

    Raises:
        ValueError: the data sets have no more images than the calibration takes.
    """
    calibrated = cfg.QUANT.CALIBRATION.NUM_IMAGES
    available = len(_records(cfg))
    if available < calibrated + 2:
        raise ValueError(
            f"FISHER.VALIDATE needs images that are not calibrated on: DATASETS.TRAIN has {available}, "
            f"QUANT.CALIBRATION.NUM_IMAGES is {calibrated}: calibrate on fewer"
        )
    count = min(available, calibrated + cfg.FISHER.VALIDATE_IMAGES)
    return _mapped(cfg, _drawn(cfg, count)[calibrated:])


def _records(cfg: CfgNode) -> list[dict[str, Any]]:
    return [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]


def _drawn(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    return sample_calibration_images(_records(cfg), count, cfg.QUANT.CALIBRATION.SEED)


def _mapped(cfg: CfgNode, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    mapper = DetrDatasetMapper(cfg, is_train=False)
    return [mapper(record) for record in records]
