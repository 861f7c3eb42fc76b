"""Settings of a training that is quantized, or for a critical set, that cannot be; choices are valid."""

from collections.abc import Iterator

from detectron2.config import CfgNode

from fisher_detr.data import class_counts
from fisher_detr.engine.critical_sets import target_set
from fisher_detr.engine.qat_settings import (
    PenaltyObjective,
    distillation_settings,
    penalty_settings,
    schedule,
)
from fisher_detr.quantization import ScaleTraining


def needs_critical_set(cfg: CfgNode) -> list[str]:
    """The keys by which a training asks for a critical set; none: it does without."""
    qat = cfg.QUANT.QAT
    of_critical = qat.PENALTY.WEIGHT and qat.PENALTY.OBJECTIVE == PenaltyObjective.CRITICAL
    wanting = ["CRITICAL.TRAIN_WEIGHT"] if cfg.CRITICAL.TRAIN_WEIGHT else []
    return wanting + (["QUANT.QAT.PENALTY"] if qat.ENABLED and of_critical else [])


def missing_objects(cfg: CfgNode) -> Iterator[str]:
    """A critical set without an object in the training data, which would train nothing.

    Data sets that this package has not registered are not looked into: COCO's takes half a minute to read.
    """
    wanting = needs_critical_set(cfg)
    if not (cfg.DATASETS.TRAIN and wanting):
        return
    counts = [class_counts(name) for name in cfg.DATASETS.TRAIN]
    if any(found is None for found in counts):
        return
    chosen = target_set(cfg)
    if not sum(counts)[list(chosen.indices)].any():
        yield (
            f"CRITICAL.TARGET {cfg.CRITICAL.TARGET!r} has no object in the training data "
            f"({', '.join(cfg.DATASETS.TRAIN)}), which {' and '.join(wanting)} is about: name another set"
        )


def without_quantization(cfg: CfgNode) -> Iterator[str]:
    """What only a quantized training has, in one that is not."""
    keys = cfg.QUANT.QAT
    wanted = ["QUANT.QAT.PENALTY.WEIGHT"] if keys.PENALTY.WEIGHT else []
    wanted += ["QUANT.QAT.DISTILL.ENABLED"] if keys.DISTILL.ENABLED else []
    if wanted and not keys.ENABLED:
        yield (
            f"{' and '.join(wanted)} would have no effect, QUANT.QAT.ENABLED is False: take a config with "
            "configs/Base-QAT.yaml"
        )


def quantized_training(cfg: CfgNode) -> Iterator[str]:
    """Mistakes below QUANT.QAT."""
    keys = cfg.QUANT.QAT
    yield from _observation(cfg)
    if keys.WEIGHT_SCALE == ScaleTraining.PACT:
        yield "QUANT.QAT.WEIGHT_SCALE is 'pact', which is about activations: take 'lsq'"
    if not 0 < keys.RANGE_MOMENTUM <= 1:
        yield f"QUANT.QAT.RANGE_MOMENTUM is {keys.RANGE_MOMENTUM:g}, expected above 0 and at most 1"
    for name, build in (
        ("QUANT.QAT.PENALTY", penalty_settings),
        ("QUANT.QAT.DISTILL", distillation_settings),
        ("QUANT.QAT", schedule),
    ):
        try:
            build(cfg)
        except ValueError as error:
            yield f"{name}: {error}"


def _observation(cfg: CfgNode) -> Iterator[str]:
    """While activations are observed they are not quantized: an evaluation would tell of another model."""
    observed, period = cfg.QUANT.QAT.OBSERVE_ITERS, cfg.TEST.EVAL_PERIOD
    if 0 < cfg.SOLVER.MAX_ITER <= observed:
        yield (
            f"QUANT.QAT.OBSERVE_ITERS is {observed} and SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}: activations "
            "would never be quantized, observe for fewer iterations"
        )
    elif 0 < period <= observed:
        yield (
            f"TEST.EVAL_PERIOD is {period} and QUANT.QAT.OBSERVE_ITERS {observed}: activations are not "
            f"quantized by then, set the period above {observed}"
        )
