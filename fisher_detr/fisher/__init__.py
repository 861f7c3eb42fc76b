"""Fisher information and sensitivity, from a loss callable and named parameters."""

from fisher_detr.fisher.block import BlockEstimate, estimate_block_sensitivity
from fisher_detr.fisher.diagonal import ErrorFn, FisherEstimate, diagonal_sensitivity, estimate_fisher
from fisher_detr.fisher.gradients import LossFn, image_gradients
from fisher_detr.fisher.statistics import standard_error

__all__ = [
    "BlockEstimate",
    "ErrorFn",
    "FisherEstimate",
    "LossFn",
    "diagonal_sensitivity",
    "estimate_block_sensitivity",
    "estimate_fisher",
    "image_gradients",
    "standard_error",
]
