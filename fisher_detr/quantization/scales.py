"""Scales of weight quantizers: from the largest weight, or least (Fisher-weighted) squared error.

`fisher` minimises `sum_i F_ii (Q(w_i) - w_i)^2`, the diagonal form of the predicted loss increase
(method.md section 3), one level below the choice of the widths.
"""

import torch
from torch import Tensor

from fisher_detr.quantization.primitives import fake_quantize
from fisher_detr.structures import QuantSpec, ScaleMethod

# Candidate scales are the scale from the largest weight times these factors, evenly spaced in the logarithm.
# They reach down to 2 bits with one scale per tensor, where the best is a few percent of the largest weight.
GRID_SIZE = 80
SMALLEST_FACTOR = 0.02


def weight_scale(
    weight: Tensor, spec: QuantSpec, method: ScaleMethod, fisher: Tensor | None = None
) -> Tensor:
    """Scale of a weight quantizer.

    An all-zero channel gets scale 1. A channel whose Fisher information is all zero falls back to the squared
    error.

    Args:
        weight: `[C, ...]` weights, finite.
        spec: symmetric; one scale for each of the C channels or one for the tensor.
        method: max, mse or fisher.
        fisher: for `fisher`: the diagonal `F_ii >= 0`, of the shape of `weight`; its overall factor is
            irrelevant.

    Returns:
        Tensor: `[C]` or `[1]`, positive and finite, in the weight's dtype (half precision: float32).

    Raises:
        ValueError: weights are not finite, or `fisher` is missing or no Fisher diagonal of these weights.
    """
    weight = weight.detach()
    weight = weight if weight.dtype == torch.float64 else weight.float()
    if not torch.isfinite(weight).all():
        raise ValueError(f"weight of shape {tuple(weight.shape)} is not finite: check the checkpoint")
    method = ScaleMethod(method)
    if method is ScaleMethod.MAX:
        return _max_scale(weight, spec)
    importance = _importance(fisher, weight, spec) if method is ScaleMethod.FISHER else None
    return _search(weight, spec, importance)


def _max_scale(weight: Tensor, spec: QuantSpec) -> Tensor:
    largest = _rows(weight, spec).abs().amax(dim=1)
    smallest_scale = torch.finfo(weight.dtype).tiny  # a scale of denormal weights must not become 0
    return torch.where(largest > 0, largest / spec.qmax, 1.0).clamp_min(smallest_scale)


def _search(weight: Tensor, spec: QuantSpec, importance: Tensor | None) -> Tensor:
    largest = _max_scale(weight, spec)
    best_scale, best_error = largest, _weighted_error(weight, largest, spec, importance)
    for factor in _factors()[1:]:
        scale = (largest * factor).clamp_min(torch.finfo(weight.dtype).tiny)
        error = _weighted_error(weight, scale, spec, importance)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_error = torch.where(better, error, best_error)
    return best_scale


def _factors() -> list[float]:
    return [SMALLEST_FACTOR ** (i / (GRID_SIZE - 1)) for i in range(GRID_SIZE)]


def _weighted_error(weight: Tensor, scale: Tensor, spec: QuantSpec, importance: Tensor | None) -> Tensor:
    squared = (fake_quantize(weight, scale, spec) - weight).square_()
    if importance is not None:
        squared *= importance
    return _rows(squared, spec).sum(dim=1)


def _rows(x: Tensor, spec: QuantSpec) -> Tensor:
    """One row for each scale: `[C, K]` or `[1, C * K]`."""
    return x.reshape(x.shape[0], -1) if spec.per_channel else x.reshape(1, -1)


def _importance(fisher: Tensor | None, weight: Tensor, spec: QuantSpec) -> Tensor:
    """Fisher diagonal over its largest value among the weights of each scale; all zero: all one."""
    if fisher is None:
        raise ValueError("scale method 'fisher' needs the Fisher diagonal: pass fisher, or use 'mse'")
    if fisher.shape != weight.shape:
        expected = f"expected the weight's {tuple(weight.shape)}"
        raise ValueError(f"Fisher diagonal has shape {tuple(fisher.shape)}, {expected}")
    if not torch.isfinite(fisher).all() or (fisher < 0).any():
        raise ValueError("Fisher diagonal has negative or non-finite values: expected mean squared gradients")
    rows = _rows(fisher.detach(), spec)
    # Before the cast: squares of small gradients underflow in float32.
    largest = rows.amax(dim=1, keepdim=True)
    return torch.where(largest > 0, rows / largest, 1.0).reshape(fisher.shape).to(weight.device, weight.dtype)
