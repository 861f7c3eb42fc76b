"""Rounding of weights against the Fisher information instead of to nearest.

The loss grows by `d'Hd` for every output channel, where `d` are the errors of its K weights and H says how
they interact (`input_moments`). With `H = R R'`, R upper triangular,

    d'Hd = sum_j R_jj^2 (d_j + sum_{i<j} d_i R_ij / R_jj)^2.

Column after column, the term of column j is least where its weight is rounded to the level nearest to
`w_j - sum_{i<j} d_i R_ij / R_jj`: the errors made so far are passed on. The same levels as those of Optimal
Brain Compression (arXiv 2208.11580) in a fixed order, and of GPTQ (arXiv 2210.17323), which update the later
weights by rows of the inverse of H. With a diagonal H it is rounding to nearest.
"""

import enum
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fisher_detr.quantization.primitives import fake_quantize
from fisher_detr.quantization.scales import weight_scale
from fisher_detr.quantization.selection import quantized_layers
from fisher_detr.structures import QuantSpec, ScaleMethod

DAMPING = 0.01  # GPTQ's, section 3.3
_BLOCK = 128  # columns whose errors are passed on by one product


class RoundingMethod(enum.StrEnum):
    """How a weight becomes a level."""

    NEAREST = "nearest"
    FISHER = "fisher"  # so that errors within an output channel make up for each other


def round_weights(
    model: nn.Module,
    moments: Mapping[str, Tensor],
    *,
    damping: float = DAMPING,
    descending: bool = True,
) -> None:
    """Replace the weights of all quantized layers by rounded ones, in place.

    Their quantizers then give the weights themselves, so that everything after (packing, export) is as ever.
    What the weights were is lost: keep the float model to round again.

    Args:
        model: a quantized model whose weight scales are set.
        moments: H of every quantized layer, by name; zeros: round to nearest.
        damping: part of the mean of H's diagonal; see `round_against_fisher`.
        descending: the order of the columns.

    Raises:
        ValueError: a layer has no moment or none that fits.
    """
    layers = quantized_layers(model)
    if missing := [name for name in layers if name not in moments]:
        raise ValueError(f"rounding against the Fisher needs the moment of {', '.join(missing)}")
    for name, layer in layers.items():
        quantizer = layer.weight_quantizer
        try:
            rounded = round_against_fisher(
                layer.weight, quantizer.scale, quantizer.spec, moments[name], damping, descending
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        layer.weight.data.copy_(rounded)


class FisherRounding:
    """Rounds one weight at any width; what depends on H alone is computed once."""

    @torch.no_grad()
    def __init__(self, weight: Tensor, moment: Tensor, damping: float = DAMPING, descending: bool = True):
        """Prepare; arguments as for `round_against_fisher`."""
        moment = _damped(_checked_moment(moment, weight), damping)
        columns = weight.detach().double().reshape(len(moment), -1, moment.shape[-1]).mT  # [G, K, C / G]
        self._order = _order(moment, descending)
        self._mixing = _mixing(_take(_take(moment, self._order).mT, self._order))
        self._columns = _take(columns, self._order)
        self._weight = weight

    @torch.no_grad()
    def round(self, scale: Tensor, spec: QuantSpec) -> Tensor:
        """The rounded weight; arguments as for `round_against_fisher`."""
        shape, dtype = self._weight.shape, self._weight.dtype
        values = _round_columns(
            self._columns, self._mixing, lambda column: _nearest(column, dtype, scale, spec)
        )
        values = torch.empty_like(values).scatter_(1, self._order[..., None].expand_as(values), values)
        # Once more from the values themselves, which stay: in half precision and with other scales too.
        return fake_quantize(values.mT.reshape(shape).to(dtype), scale, spec)


def round_against_fisher(
    weight: Tensor,
    scale: Tensor,
    spec: QuantSpec,
    moment: Tensor,
    damping: float = DAMPING,
    descending: bool = True,
) -> Tensor:
    """Round a weight so that the errors within each output channel make up for each other.

    C are the output channels, K the inputs of each, G the groups. Computed in float64. An input that is
    always zero (its diagonal of H is 0) is rounded to nearest.

    Args:
        weight: `[C, ...]` with K values behind each channel.
        scale: `[C]` when `spec.per_channel`, else `[1]`; positive.
        spec: symmetric; width and range.
        moment: H, `[G, K, K]` or `[K, K]`, positive semidefinite; its overall factor is irrelevant.
        damping: this part of the mean of H's diagonal is added to it: 0 trusts H entirely, much rounds to
            nearest.
        descending: round the columns with the largest diagonal of H first, while many others can still make
            up for their errors; otherwise in their own order.

    Returns:
        Tensor: `level * scale`, of the shape and dtype of `weight`: what `fake_quantize` returns unchanged.

    Raises:
        ValueError: H does not fit the weight or is not finite, or is not positive definite even damped.
    """
    return FisherRounding(weight, moment, damping, descending).round(scale, spec)


def quantization_error(
    weight: Tensor,
    bits: int,
    method: ScaleMethod = ScaleMethod.MAX,
    per_channel: bool = True,
    fisher: Tensor | None = None,
    rounding: FisherRounding | None = None,
) -> Tensor:
    """Error `d = Q_b(w) - w` of a weight at a width.

    Args:
        weight: `[C, ...]` weights.
        bits: width b.
        method: how the scale is chosen.
        per_channel: one scale for each output channel, or one for the tensor.
        fisher: Fisher diagonal of the weight, for the method `fisher`.
        rounding: of this weight; None: to nearest.

    Returns:
        Tensor: of the shape and dtype of `weight`, detached.
    """
    spec, weight = QuantSpec(bits, per_channel=per_channel), weight.detach()
    scale = weight_scale(weight, spec, method, fisher)
    return (rounding.round(scale, spec) if rounding else fake_quantize(weight, scale, spec)) - weight


def _checked_moment(moment: Tensor, weight: Tensor) -> Tensor:
    """H `[G, K, K]` in float64."""
    num_inputs = weight[0].numel()
    stacked = moment if moment.dim() == 3 else moment[None]
    if stacked.shape[1:] != (num_inputs, num_inputs) or len(weight) % len(stacked):
        raise ValueError(
            f"moment of shape {tuple(moment.shape)} for a weight of shape {tuple(weight.shape)}: expected "
            f"[{num_inputs}, {num_inputs}], or one for each of its groups"
        )
    if not torch.isfinite(stacked).all() or (stacked.diagonal(dim1=1, dim2=2) < 0).any():
        raise ValueError("moment has non-finite values or a negative diagonal: expected sums of x x'")
    return stacked.detach().to(weight.device, torch.float64)


def _damped(moment: Tensor, damping: float) -> Tensor:
    """With a positive diagonal: an input that is always zero has no part in any sum."""
    if not 0.0 <= damping < math.inf:
        raise ValueError(f"damping {damping}: expected a finite number that is not negative")
    diagonal = moment.diagonal(dim1=1, dim2=2)  # [G, K]
    mean = diagonal.mean(dim=1, keepdim=True)
    mean = torch.where(mean > 0, mean, 1.0)
    return moment + torch.diag_embed(damping * mean + torch.where(diagonal > 0, 0.0, mean))


def _order(moment: Tensor, descending: bool) -> Tensor:
    """Which column comes when, `[G, K]`."""
    diagonal = moment.diagonal(dim1=1, dim2=2)
    if descending:
        return diagonal.argsort(dim=1, descending=True, stable=True)
    return torch.arange(diagonal.shape[1], device=moment.device).expand(diagonal.shape)


def _take(columns: Tensor, order: Tensor) -> Tensor:
    return columns.gather(1, order[..., None].expand_as(columns))


def _mixing(moment: Tensor) -> Tensor:
    """`R_ij / R_jj` of `H = R R'`, R upper triangular; `[G, K, K]`."""
    lower, failed = torch.linalg.cholesky_ex(moment.flip(1, 2))
    if failed.any():
        raise ValueError("the damped moment is not positive definite: expected sums of x x', or more damping")
    upper = lower.flip(1, 2)
    return upper / upper.diagonal(dim1=1, dim2=2)[:, None, :]


def _round_columns(columns: Tensor, mixing: Tensor, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """Round the columns `[G, K, C / G]` one after the other."""
    values, errors = torch.empty_like(columns), torch.zeros_like(columns)
    for start in range(0, columns.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        passed = mixing[:, :start, block].mT @ errors[:, :start]  # [G, block, C / G]
        for j in range(start, min(start + _BLOCK, columns.shape[1])):
            within = mixing[:, None, start:j, j] @ errors[:, start:j]  # [G, 1, C / G]
            values[:, j] = nearest(columns[:, j] - passed[:, j - start] - within[:, 0])
            errors[:, j] = values[:, j] - columns[:, j]
    return values


def _nearest(column: Tensor, dtype: torch.dtype, scale: Tensor, spec: QuantSpec) -> Tensor:
    """As the weight's quantizer rounds, in its precision: `[G, C / G]`."""
    precision = torch.promote_types(dtype, torch.float32)
    return fake_quantize(column.reshape(-1).to(precision), scale, spec).view_as(column)
