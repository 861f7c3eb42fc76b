"""The arms side by side: full precision and each way to spend the same bytes."""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from fisher_detr.engine.evaluation_record import evaluation_folder
from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.engine.table_origin import save_tables
from fisher_detr.engine.trainer import Trainer
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import RoundingMethod
from fisher_detr.structures import FULL_PRECISION, NEAREST, Arm, BitAllocation, ScaleMethod

logger = logging.getLogger(__name__)


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
    """

    name: str
    metrics: dict[str, float]
    size_bytes: int
    seconds: float
    folder: str
    allocation: BitAllocation | None


def evaluate_full_precision(cfg: CfgNode, model: DetrBase) -> ArmResult:
    """Evaluate a float model; its size is that of float32."""
    metrics, folder = _evaluate(cfg, model, FULL_PRECISION, {"QUANT.ENABLED": False})
    return ArmResult(FULL_PRECISION, metrics, float_bytes(model), 0.0, folder, None)


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
        result = evaluate_plan(cfg, quantizer, allocation, arm, str(arm), start)
        if arm is not Arm.UNIFORM:
            save_tables(quantizer.sensitivities(arm), result.folder)
        results.append(result)
    return results


def evaluate_nearest(cfg: CfgNode, model: DetrBase, average_bits: float) -> ArmResult:
    """Quantize and evaluate as is done without Fisher information.

    Layers have one width, scales the least squared error, weights are rounded to nearest: the baseline that
    no key of the config changes, beside the arm `uniform`, which has the scales and the rounding of the
    others.

    Args:
        cfg: see `evaluate_arms`.
        model: in full precision; its norms are folded, in place.
        average_bits: the width.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.QUANT.WEIGHT.SCALE, cfg.QUANT.WEIGHT.ROUNDING = ScaleMethod.MSE.value, RoundingMethod.NEAREST.value
    start = time.perf_counter()
    quantizer = PostTrainingQuantizer.from_config(cfg, model, [])
    allocation = quantizer.allocate(Arm.UNIFORM, average_bits)
    return evaluate_plan(cfg, quantizer, allocation, Arm.UNIFORM, NEAREST, start)


def evaluate_plan(
    cfg: CfgNode,
    quantizer: PostTrainingQuantizer,
    allocation: BitAllocation,
    scales: Arm,
    name: str,
    start: float | None = None,
) -> ArmResult:
    """Quantize by a plan and evaluate.

    Args:
        cfg: see `evaluate_arms`.
        quantizer: of the full-precision model.
        allocation: the widths.
        scales: the arm whose Fisher information weighs the scales.
        name: of the result.
        start: when the work on this plan began, of `time.perf_counter`; None: now.
    """
    start = time.perf_counter() if start is None else start
    quantized = quantizer.quantize(allocation, scales)
    seconds = time.perf_counter() - start
    target = "".join(f"_{name}" for name in quantizer.sets)
    keys = {"QUANT.ENABLED": True, "ALLOCATION.ARM": str(scales)}
    if bits := allocation.meta.get("average_bits"):
        keys["ALLOCATION.AVERAGE_BITS"] = float(bits)
    folder_name = f"{name}{target}_{allocation.budget_bytes}bytes"
    metrics, folder = _evaluate(cfg, quantized.model, folder_name, keys)
    allocation.save(os.path.join(folder, "allocation.json"))
    return ArmResult(name, metrics, quantized.coverage.total_bytes, seconds, folder, allocation)


def float_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers in float32, each tensor once; batch counters and constants aside."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(4 * tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def _evaluate(
    cfg: CfgNode, model: DetrBase, name: str, keys: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Metrics and folder; the config that is kept with them is the arm's own."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([part for pair in keys.items() for part in pair])
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, name)
    logger.info("Evaluating %s", name)
    results = Trainer.test(cfg, model.eval())
    return dict(results["bbox"]), evaluation_folder(cfg, cfg.DATASETS.TEST[0])
