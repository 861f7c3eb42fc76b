"""Fisher information and sensitivity, from a loss callable and named parameters."""

from fisher_detr.fisher.agreement import MisrankedLayer, PredictionCheck, RankAgreement
from fisher_detr.fisher.diagonal import FisherEstimate, estimate_fisher, estimate_traces
from fisher_detr.fisher.gradients import GradientMethod, LossFn, image_gradients
from fisher_detr.fisher.hutchinson import HessianTraces, estimate_hessian_traces, hawq_sensitivity
from fisher_detr.fisher.image_pass import ImagePass, PassKeeper, PassSettings
from fisher_detr.fisher.input_moments import input_moment
from fisher_detr.fisher.landscape import DisplacedLosses, Landscape, displaced, explore, random_direction
from fisher_detr.fisher.measurement import MeasuredChanges, evaluate_losses, measure_loss_changes
from fisher_detr.fisher.moments import estimate_input_moments
from fisher_detr.fisher.pass_file import PassFile
from fisher_detr.fisher.sensitivity import ErrorFn, LayerError, SensitivityEstimate, estimate_sensitivity
from fisher_detr.fisher.statistics import CRITICAL, OVERALL, standard_error
from fisher_detr.fisher.trace_penalty import (
    PenaltyMethod,
    RepeatableLoss,
    SquaredNorm,
    TraceEstimate,
    require_twice_differentiable,
    squared_norm,
)
from fisher_detr.fisher.validation import validate_prediction
from fisher_detr.fisher.weight_products import UncaughtWeightError

__all__ = [
    "CRITICAL",
    "OVERALL",
    "DisplacedLosses",
    "ErrorFn",
    "LayerError",
    "FisherEstimate",
    "GradientMethod",
    "HessianTraces",
    "ImagePass",
    "Landscape",
    "LossFn",
    "MeasuredChanges",
    "MisrankedLayer",
    "PassFile",
    "PassKeeper",
    "PassSettings",
    "PenaltyMethod",
    "PredictionCheck",
    "RankAgreement",
    "RepeatableLoss",
    "SensitivityEstimate",
    "SquaredNorm",
    "TraceEstimate",
    "UncaughtWeightError",
    "estimate_fisher",
    "estimate_input_moments",
    "estimate_hessian_traces",
    "estimate_sensitivity",
    "estimate_traces",
    "displaced",
    "evaluate_losses",
    "explore",
    "hawq_sensitivity",
    "image_gradients",
    "input_moment",
    "measure_loss_changes",
    "random_direction",
    "require_twice_differentiable",
    "squared_norm",
    "standard_error",
    "validate_prediction",
]
