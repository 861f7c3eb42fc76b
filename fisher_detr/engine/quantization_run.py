"""A run of post-training quantization: what it takes from files of earlier runs, and what it leaves."""

import logging
import os

from detectron2.config import CfgNode
from detectron2.utils import comm

from fisher_detr.allocation import format_plan
from fisher_detr.engine.calibration_images import held_out_images
from fisher_detr.engine.post_training import PostTrainingQuantizer, QuantizedModel
from fisher_detr.engine.prediction_check import check_prediction
from fisher_detr.engine.table_origin import save_tables
from fisher_detr.modeling import DetrBase
from fisher_detr.structures import Arm, BitAllocation, SensitivityTable

logger = logging.getLogger(__name__)


def run_post_training(cfg: CfgNode, model: DetrBase) -> QuantizedModel:
    """Quantize a loaded model as the config says, and leave the files of the run in OUTPUT_DIR.

    All ranks must call: they share the calibration images.

    Args:
        cfg: with QUANT.ENABLED.
        model: in full precision, with its weights; changed.

    Returns:
        the quantized model and its widths; `sensitivity.json`, `allocation.json` and `coverage.json` are
        written.
    """
    images = held_out_images(cfg) if cfg.FISHER.VALIDATE else []
    quantizer, keys = PostTrainingQuantizer.from_config(cfg, model), cfg.ALLOCATION
    arm = Arm(keys.ARM)
    if keys.ALLOCATION_FILE:
        allocation = _stored_allocation(keys.ALLOCATION_FILE, arm, quantizer)
    else:
        if arm is not Arm.UNIFORM:
            take_or_estimate(cfg, quantizer, arm)
        allocation = quantizer.allocate(arm, keys.AVERAGE_BITS)
    if cfg.FISHER.VALIDATE:
        check_prediction(cfg, quantizer, arm, images)
    quantized = quantizer.quantize(allocation, arm)
    if comm.is_main_process():
        allocation.save(os.path.join(cfg.OUTPUT_DIR, "allocation.json"))
        quantized.coverage.save(os.path.join(cfg.OUTPUT_DIR, "coverage.json"))
    logger.info("Plan:\n%s", format_plan(allocation))
    logger.info("Coverage:\n%s", quantized.coverage)
    return quantized


def take_or_estimate(cfg: CfgNode, quantizer: PostTrainingQuantizer, arm: Arm) -> None:
    """Sensitivities of ALLOCATION.SENSITIVITY_FILE; or estimated, and left in OUTPUT_DIR.

    Args:
        cfg: the config.
        quantizer: gets them.
        arm: fisher_overall or fisher_critical.
    """
    quantizer.check_limits()
    if path := cfg.ALLOCATION.SENSITIVITY_FILE:
        quantizer.take_sensitivity(arm, SensitivityTable.load(path))
        return
    tables = quantizer.sensitivities(arm)
    if comm.is_main_process():
        save_tables(tables, cfg.OUTPUT_DIR)


def _stored_allocation(path: str, arm: Arm, quantizer: PostTrainingQuantizer) -> BitAllocation:
    """The widths of an earlier run, if they are what the config calls them."""
    allocation = BitAllocation.load(path)
    try:
        aimed_at = _aims(allocation)
        format_plan(allocation)  # that it is printed in the end must not end a run that is done
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"allocation file {path} is broken (its meta: {type(error).__name__}): make it again"
        ) from None
    made_for = allocation.meta.get("arm", str(arm))
    if made_for != arm:
        raise ValueError(
            f"allocation file {path} is of arm {made_for}, and ALLOCATION.ARM is {arm}, whose scales are "
            f"others: set ALLOCATION.ARM {made_for}"
        )
    sets = {name: list(x.indices) for name, x in quantizer.sets.items()}
    if arm is Arm.FISHER_CRITICAL and aimed_at and sorted(aimed_at.values()) != sorted(sets.values()):
        raise ValueError(
            f"allocation file {path} is for the critical set {', '.join(aimed_at)}, and the config names "
            f"{', '.join(sets) or 'none'}, whose scales are others: set CRITICAL.TARGET (of several sets "
            "ALLOCATION.CRITICAL_SETS) to the plan's"
        )
    layers = {layer.name: layer for layer in quantizer.layers}
    if set(allocation.bits) == set(layers):  # other layers are quantize_model's to refuse
        size = sum(layer.size_bytes(allocation.bits[name]) for name, layer in layers.items())
        if size != allocation.size_bytes:
            raise ValueError(
                f"allocation file {path} says {allocation.size_bytes} bytes, its widths take {size}: "
                "make it again"
            )
    return allocation


def _aims(allocation: BitAllocation) -> dict[str, list[int]]:
    """Category indices of the critical sets of a plan, by their names."""
    origin = allocation.meta.get("sensitivity") or {}
    tables = [origin] if "critical_set" in origin else [x for x in origin.values() if isinstance(x, dict)]
    found = [table["critical_set"] for table in tables if table.get("critical_set")]
    return {str(chosen["name"]): [int(index) for index in chosen["indices"]] for chosen in found}
