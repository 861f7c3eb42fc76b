"""The arms side by side: full precision and each way to spend the same bytes."""

import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.engine.trainer import Trainer
from fisher_detr.modeling import DetrBase
from fisher_detr.structures import Arm, BitAllocation

logger = logging.getLogger(__name__)

FULL_PRECISION = "full_precision"


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """One arm, measured.

    Attributes:
        name: of the arm.
        metrics: what the evaluator reports for "bbox".
        size_bytes: of all parameters and buffers, quantized ones packed with their scales.
        seconds: taken to quantize (calibration, Fisher information, allocation); what arms share counts
            in the first that needs it.
        folder: where the evaluator has left its detections.
        allocation: the widths; None in full precision.
        model: the model itself.
    """

    name: str
    metrics: dict[str, float]
    size_bytes: int
    seconds: float
    folder: str
    allocation: BitAllocation | None
    model: DetrBase = dataclasses.field(repr=False)

    @torch.no_grad()
    def detect(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        """Detections on a batch."""
        return [output["instances"] for output in self.model(batched_inputs)]


def evaluate_full_precision(cfg: CfgNode, model: DetrBase) -> ArmResult:
    """Evaluate a float model; its size is that of float32."""
    metrics, folder = _evaluate(cfg, model, FULL_PRECISION)
    return ArmResult(FULL_PRECISION, metrics, float_bytes(model), 0.0, folder, None, model)


def evaluate_arms(
    cfg: CfgNode, quantizer: PostTrainingQuantizer, arms: Sequence[Arm], average_bits: float
) -> list[ArmResult]:
    """Quantize and evaluate arms at equal bytes.

    Args:
        cfg: names the data sets to evaluate on; results go below OUTPUT_DIR.
        quantizer: of the full-precision model.
        arms: in the order of the results.
        average_bits: the uniform width whose bytes all arms get.
    """
    results = []
    for arm in arms:
        start = time.perf_counter()
        allocation = quantizer.allocate(arm, average_bits)
        quantized = quantizer.quantize(allocation, arm)
        seconds = time.perf_counter() - start
        metrics, folder = _evaluate(cfg, quantized.model, _name(arm, quantizer, average_bits))
        allocation.save(os.path.join(folder, "allocation.json"))
        quantized.coverage.save(os.path.join(folder, "coverage.json"))
        size = quantized.coverage.total_bytes
        results.append(ArmResult(str(arm), metrics, size, seconds, folder, allocation, quantized.model))
    return results


def float_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers in float32, each tensor once; batch counters and constants aside."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(4 * tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def _name(arm: Arm, quantizer: PostTrainingQuantizer, average_bits: float) -> str:
    target = f"_{quantizer.critical.name}" if arm is Arm.FISHER_CRITICAL and quantizer.critical else ""
    return f"{arm}{target}_{average_bits:g}bit"


def _evaluate(cfg: CfgNode, model: DetrBase, name: str) -> tuple[dict[str, Any], str]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
    logger.info("Evaluating %s", name)
    results = Trainer.test(cfg, model.eval())
    return dict(results["bbox"]), os.path.join(cfg.OUTPUT_DIR, "inference", cfg.DATASETS.TEST[0])
