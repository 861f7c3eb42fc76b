"""Fisher information and sensitivity, from a loss callable and named parameters."""

from fisher_detr.fisher.block import BlockEstimate, estimate_block_sensitivity
from fisher_detr.fisher.diagonal import ErrorFn, FisherEstimate, diagonal_sensitivity, estimate_fisher
from fisher_detr.fisher.gradients import LossFn, image_gradients
from fisher_detr.fisher.statistics import standard_error
from fisher_detr.fisher.trace_penalty import (
    PenaltyMethod,
    RepeatableLoss,
    SquaredNorm,
    TraceEstimate,
    require_twice_differentiable,
    squared_norm,
)

__all__ = [
    "BlockEstimate",
    "ErrorFn",
    "FisherEstimate",
    "LossFn",
    "PenaltyMethod",
    "RepeatableLoss",
    "SquaredNorm",
    "TraceEstimate",
    "diagonal_sensitivity",
    "estimate_block_sensitivity",
    "estimate_fisher",
    "image_gradients",
    "require_twice_differentiable",
    "squared_norm",
    "standard_error",
]
