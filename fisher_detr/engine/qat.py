"""Quantization-aware training: the quantized model, its start, and the hook, by hand or from a config."""

import logging
import os
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from torch import Tensor, nn

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors, local_path
from fisher_detr.engine.critical_sets import target_set
from fisher_detr.engine.distillation import Distillation
from fisher_detr.engine.hooks import QATHook
from fisher_detr.engine.insertion import float_model_for_quantization, insert_quantizers
from fisher_detr.engine.objectives import CriticalTerm, DetrObjective
from fisher_detr.engine.qat_settings import (
    PenaltyObjective,
    distillation_settings,
    penalty_settings,
    schedule,
)
from fisher_detr.engine.quant_settings import QuantSettings
from fisher_detr.engine.trace_penalty import FisherTracePenalty
from fisher_detr.fisher import TraceEstimate
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import (
    CoverageReport,
    ScaleTraining,
    fold_batch_norm,
    learn_scales,
    quantizable_layers,
    quantize_model,
)
from fisher_detr.structures import BitAllocation

logger = logging.getLogger(__name__)

_WIDTH_NAME = ".weight_quantizer.bits"


def prepare(
    model: nn.Module,
    *,
    bits: int | None = None,
    allocation: BitAllocation | None = None,
    activation_bits: int = 8,
    per_channel: bool = True,
    skip: Sequence[str] = (),
    weights: ScaleTraining = ScaleTraining.LSQ,
    activations: ScaleTraining = ScaleTraining.LSQ,
    fold_norm: bool = False,
) -> CoverageReport:
    """Quantize any model for `QATHook`, in place: before its optimizer, its checkpointer and its wrapping.

    Weights in full precision may be loaded afterwards: the hook sets the scales when the training starts.

    Args:
        model: of convolutions and linear layers.
        bits: the width of all weights; or
        allocation: a width for each layer.
        activation_bits: width of the layers' inputs; 0: not quantized.
        per_channel: one weight scale for each output channel.
        skip: module paths that stay in full precision, such as the output heads.
        weights: what becomes of the weights' scales; the same in `QATSchedule`.
        activations: what becomes of the activations' scales; the same in `QATSchedule`.
        fold_norm: fold frozen batch norms into their convolutions. Their names leave the state dict: only
            where the weights in full precision are loaded already.

    Returns:
        CoverageReport: everything that is and is not quantized.

    Raises:
        ValueError: see `quantize_model` and `learn_scales`; or the model is wrapped.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError("prepare(model) comes before DistributedDataParallel, which would miss the scales")
    if fold_norm:
        fold_batch_norm(model)
    report = quantize_model(
        model,
        allocation,
        bits=bits,
        activation_bits=activation_bits,
        per_channel=per_channel,
        skip=skip,
    )
    learn_scales(model, weights, activations)
    return report


def quantize_for_training(cfg: CfgNode, model: DetrBase) -> None:
    """Turn a new model into the quantized one that MODEL.WEIGHTS holds, with the scales that are learned.

    Raises:
        ValueError: MODEL.WEIGHTS is no quantized checkpoint.
    """
    settings = QuantSettings.from_config(cfg)
    float_model_for_quantization(model, settings.fold_norm)
    widths = stored_widths(load_tensors(cfg.MODEL.WEIGHTS)["model"], model, settings.skip)
    if not widths:
        raise ValueError(f"checkpoint {cfg.MODEL.WEIGHTS} is in full precision: quantize it first")
    insert_quantizers(model, BitAllocation(widths, size_bytes=0, budget_bytes=0), settings)
    learn_scales(
        model, ScaleTraining(cfg.QUANT.QAT.WEIGHT_SCALE), ScaleTraining(cfg.QUANT.QAT.ACTIVATION_SCALE)
    )


def stored_widths(state: Mapping[str, Tensor], model: nn.Module, skip: Sequence[str]) -> dict[str, int]:
    """Width in bits of every layer, from a quantized state dict of the model; empty: it is not quantized."""
    layers = quantizable_layers(model, skip)
    return {name: int(state[name + _WIDTH_NAME]) for name in layers if name + _WIDTH_NAME in state}


def is_quantized(path: str) -> bool:
    """Whether a checkpoint holds a quantized model."""
    # Detectron2's zoo stores models as .pkl; none of them is quantized.
    if path.endswith(".pkl") or not os.path.isfile(local_path(path)):
        return False
    state = load_tensors(path).get("model", {})
    return any(name.endswith(_WIDTH_NAME) for name in state)


def build_hook(cfg: CfgNode) -> QATHook:
    """The hook that QUANT.QAT asks for."""
    return QATHook(schedule(cfg), _penalty(cfg))


def add_training_terms(cfg: CfgNode, model: DetrBase, teacher: DetrBase | None) -> None:
    """Add re-weighting and distillation to the losses of a model, as the config says.

    Args:
        cfg: with CRITICAL.TRAIN_WEIGHT and QUANT.QAT.DISTILL.
        model: not wrapped.
        teacher: in full precision with its weights; None: no distillation.
    """
    if cfg.CRITICAL.TRAIN_WEIGHT:
        model.more_losses.append(CriticalTerm(model, target_set(cfg), cfg.CRITICAL.TRAIN_WEIGHT))
    if teacher is not None:
        model.more_losses.append(Distillation(model, teacher, distillation_settings(cfg)))


def load_teacher(cfg: CfgNode, model: DetrBase) -> DetrBase:
    """Give a new float model the weights of QUANT.QAT.DISTILL.TEACHER."""
    SafeCheckpointer(model).load(cfg.QUANT.QAT.DISTILL.TEACHER)
    return model.eval()


def _penalty(cfg: CfgNode) -> FisherTracePenalty | None:
    settings = penalty_settings(cfg)
    if not settings.weight:
        return None
    of_critical = cfg.QUANT.QAT.PENALTY.OBJECTIVE == PenaltyObjective.CRITICAL
    chosen = target_set(cfg) if of_critical else None
    across_ranks = settings.estimate is TraceEstimate.MINIBATCH
    return FisherTracePenalty(DetrObjective(chosen, across_ranks), settings)
