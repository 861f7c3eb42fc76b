"""How errors of a weight interact, made ready for rounding: checked, damped, factorized."""

import math

import torch
from torch import Tensor

# H is a sum of products in float32: what is less than this part of its trace may be rounding, and more where
# that is not enough. (Street models without the mean of the inputs: eigenvalues down to -0.94 epsilon.)
_FLOAT32 = [torch.finfo(torch.float32).eps * factor for factor in (4, 40, 400)]


def checked_moment(moment: Tensor, weight: Tensor) -> Tensor:
    """H `[G, K, K]` or `[G, K + 1, K + 1]` in float64."""
    inputs = weight[0].numel()
    stacked = moment if moment.dim() == 3 else moment[None]
    if stacked.shape[1:] not in ((inputs, inputs), (inputs + 1, inputs + 1)) or len(weight) % len(stacked):
        raise ValueError(
            f"moment of shape {tuple(moment.shape)} for a weight of shape {tuple(weight.shape)}: expected "
            f"[{inputs}, {inputs}] or with a bias one more, or such a matrix for each of its groups"
        )
    if not torch.isfinite(stacked).all() or (stacked.diagonal(dim1=1, dim2=2) < 0).any():
        raise ValueError("moment has non-finite values or a negative diagonal: expected sums of x x'")
    return stacked.detach().to(weight.device, torch.float64)


def damp(moment: Tensor, num_inputs: int, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """With a positive diagonal, `[G, K, K]`; an input that is always zero has no part in any sum.

    Beside it the diagonal of the weights without what a bias takes of it, `[G, K]`, and the trace, of
    which a part may be rounding where a bias takes the rest.
    """
    if not 0.0 <= damping < math.inf:
        raise ValueError(f"damping {damping}: expected a finite number that is not negative")
    diagonal = moment.diagonal(dim1=1, dim2=2)
    inputs, bias = diagonal[:, :num_inputs], diagonal[:, num_inputs:]  # [G, K], [G, 1 or 0]
    added = torch.where(diagonal > 0, 0.0, _mean_or_one(inputs))
    floor = torch.zeros_like(diagonal)
    floor[:, :num_inputs] = inputs.sum(dim=1, keepdim=True) * bias.shape[1]
    taken = moment[:, :num_inputs, num_inputs:].square() / torch.where(bias > 0, bias, 1.0)[:, None]
    centred = (inputs - taken.sum(dim=2)).clamp_min(0.0)
    added[:, :num_inputs] += damping * _mean_or_one(centred)
    return moment + torch.diag_embed(added), centred, floor


def _mean_or_one(diagonal: Tensor) -> Tensor:
    mean = diagonal.mean(dim=1, keepdim=True)
    return torch.where(mean > 0, mean, 1.0)


def factorized(moment: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """`R_ij / R_jj` `[G, K, K]` and `R_jj^2` `[G, K]` of `H = R R'`, R upper triangular."""
    for part in _FLOAT32:
        lower, failed = torch.linalg.cholesky_ex((moment + torch.diag_embed(part * floor)).flip(1, 2))
        if not failed.any():
            upper = lower.flip(1, 2)
            pivots = upper.diagonal(dim1=1, dim2=2)
            return upper / pivots[:, None, :], pivots.square()
    raise ValueError("the damped moment is not positive definite: expected sums of x x', or more damping")
