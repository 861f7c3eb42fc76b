"""The ONNX file of the model that a config names."""

import dataclasses
import os
import statistics
import time
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from fisher_detr.checkpoint import local_path
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.engine.calibration_images import calibration_images
from fisher_detr.engine.commands import evaluate, load_float, load_quantized
from fisher_detr.engine.environment import environment
from fisher_detr.engine.known_categories import known_categories
from fisher_detr.engine.portable_config import portable_config
from fisher_detr.engine.qat import is_quantized
from fisher_detr.export import (
    ExportResult,
    ExportSettings,
    OnnxDetector,
    Precision,
    export_onnx,
)
from fisher_detr.modeling import DetrBase

RANGE_IMAGES = 64  # of DATASETS.TRAIN, for the ranges of convolutions' outputs


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """What is asked for beside the config.

    Attributes:
        path: of the file.
        weight_only: of a quantized model only the weights are integers.
        opset: see `ExportSettings`, like the three below.
        post_processing: scored boxes as outputs.
        padded: the file takes batches of images of several sizes.
        reduce_range: 8-bit weights in 7 bits.
        verify_images: number of images of DATASETS.TEST on which file and model are compared; 0: no
            comparison.
    """

    path: str | os.PathLike
    weight_only: bool = False
    opset: int | None = None
    post_processing: bool = True
    padded: bool = False
    reduce_range: bool | None = None
    verify_images: int = 50

    def settings(self, quantized: bool) -> ExportSettings:
        """For a model that is quantized, or not."""
        if self.weight_only:
            precision = Precision.WEIGHT_ONLY
        else:
            precision = Precision.INTEGER if quantized else Precision.FLOAT
        return ExportSettings(precision, self.opset, self.post_processing, self.padded, self.reduce_range)


def export_from_config(cfg: CfgNode, request: ExportRequest) -> ExportResult:
    """Export MODEL.WEIGHTS: integers where QUANT.ENABLED, else float32.

    Args:
        cfg: images are taken from DATASETS.TEST and, for ranges, from DATASETS.TRAIN.
        request: the rest.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint is not what QUANT.ENABLED says, or see `export_onnx`.
    """
    cfg = on_processor(cfg)
    settings = request.settings(cfg.QUANT.ENABLED)
    model = _load(cfg, settings.precision)
    images = _test_images(cfg, max(1, request.verify_images))
    ranges = calibration_images(few_ranges(cfg)) if settings.precision is Precision.INTEGER else None
    return export_onnx(
        model,
        request.path,
        images,
        settings,
        range_images=ranges,
        verify=request.verify_images > 0,
        info={
            "config": portable_config(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "categories": known_categories(cfg),
        },
    )


def evaluate_onnx(cfg: CfgNode, path: str | os.PathLike) -> dict[str, Any]:
    """Metrics of an exported file on DATASETS.TEST; of critical sets only without post-processing."""
    return evaluate(cfg, OnnxDetector(path))


def image_latency(cfg: CfgNode, path: str | os.PathLike, runs: int = 20) -> dict[str, Any]:
    """How long an exported file takes for the first image of DATASETS.TEST.

    Args:
        cfg: says how the image is made.
        path: of the file.
        runs: after one that warms up.

    Returns:
        Plain JSON for the report: `milliseconds` (the median), `runs`, `size` (height and width in pixels)
        and `environment`.
    """
    detector, (image,) = OnnxDetector(path), _test_images(cfg, 1)
    times = []
    for _ in range(1 + runs):
        start = time.perf_counter()
        detector([image])
        times.append(1000.0 * (time.perf_counter() - start))
    return {
        "milliseconds": statistics.median(times[1:]),
        "runs": runs,
        "size": list(image["image"].shape[-2:]),
        "environment": environment(),
    }


def on_processor(cfg: CfgNode) -> CfgNode:
    """For a model on the CPU, where files run."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def few_ranges(cfg: CfgNode) -> CfgNode:
    """For fewer calibration images: two values of each tensor are looked for."""
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to take the ranges of outputs from")
    cfg = cfg.clone()
    cfg.QUANT.CALIBRATION.NUM_IMAGES = min(RANGE_IMAGES, cfg.QUANT.CALIBRATION.NUM_IMAGES)
    return cfg


def _load(cfg: CfgNode, precision: Precision) -> DetrBase:
    path = cfg.MODEL.WEIGHTS
    if not os.path.isfile(local_path(path)):
        raise FileNotFoundError(f"checkpoint {path!r} does not exist: check MODEL.WEIGHTS")
    if precision is Precision.FLOAT:
        if is_quantized(path):
            raise ValueError(f"checkpoint {path} is quantized: take the config that it was quantized by")
        return load_float(cfg)
    if not is_quantized(path):
        raise ValueError(
            f"checkpoint {path} has no quantizers, which the export in {precision} needs: quantize it by "
            "tools/train_net.py first, or set QUANT.ENABLED False for float32"
        )
    return load_quantized(cfg)


def _test_images(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name the data set to compare file and model on")
    mapper = DetrDatasetMapper(cfg, is_train=False)
    return [mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:count]]
