"""The settings of a quantization-aware training, from QUANT.QAT."""

import enum

from detectron2.config import CfgNode

from fisher_detr.engine.distillation import DistillationSettings
from fisher_detr.engine.scale_phases import QATSchedule
from fisher_detr.engine.trace_penalty import PenaltySettings
from fisher_detr.fisher import PenaltyMethod, TraceEstimate
from fisher_detr.quantization import RangeMethod, ScaleTraining


class PenaltyObjective(enum.StrEnum):
    """Whose Fisher information is penalised."""

    CRITICAL = "critical"  # L_F of CRITICAL.TARGET
    OVERALL = "overall"  # L_A


def schedule(cfg: CfgNode) -> QATSchedule:
    """What happens to scales and norms, and when."""
    keys = cfg.QUANT.QAT
    return QATSchedule(
        weights=ScaleTraining(keys.WEIGHT_SCALE),
        activations=ScaleTraining(keys.ACTIVATION_SCALE),
        observe_iters=keys.OBSERVE_ITERS,
        freeze_ranges_iter=keys.FREEZE_RANGES_ITER,
        range_method=RangeMethod(cfg.QUANT.ACTIVATION.RANGE),
        percentile=cfg.QUANT.ACTIVATION.PERCENTILE,
        momentum=keys.RANGE_MOMENTUM,
        start_steps=keys.START_STEPS,
    )


def penalty_settings(cfg: CfgNode) -> PenaltySettings:
    """The Fisher-trace penalty."""
    keys = cfg.QUANT.QAT.PENALTY
    return PenaltySettings(
        weight=keys.WEIGHT,
        method=PenaltyMethod(keys.METHOD),
        estimate=TraceEstimate(keys.ESTIMATE),
        interval=keys.INTERVAL,
        radius=keys.RADIUS,
        layers=tuple(keys.PARAMS),
        warmup_iters=keys.WARMUP_ITERS,
        normalize=keys.NORMALIZE,
        clip_norm=keys.CLIP_NORM,
    )


def distillation_settings(cfg: CfgNode) -> DistillationSettings:
    """Weights and temperature of the distillation."""
    keys = cfg.QUANT.QAT.DISTILL
    return DistillationSettings(keys.CLASS_WEIGHT, keys.BOX_WEIGHT, keys.TEMPERATURE)
