"""Rounding of one weight against the Fisher information: the errors of a channel make up for each other.

The loss grows by `d'Hd` for every output channel, where `d` are the errors of its K weights and H says how
they interact (`input_moment`). With `H = R R'`, R upper triangular,

    d'Hd = sum_j R_jj^2 (d_j + sum_{i<j} d_i R_ij / R_jj)^2.

Column after column, the term of column j is least where its weight is rounded to the level nearest to
`w_j - sum_{i<j} d_i R_ij / R_jj`: the errors made so far are passed on. The same levels as those of Optimal
Brain Compression (arXiv 2208.11580) in a fixed order, and of GPTQ (arXiv 2210.17323), which update the later
weights by rows of the inverse of H. With a diagonal H it is rounding to nearest.

A bias is one more input that is always 1, and comes last: not rounded, it makes its term 0. What all weights
of a channel do to its mean output is then taken back, by what the Fisher information holds for the mean.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fisher_detr.quantization.moment_factors import checked_moment, damp, factorized
from fisher_detr.quantization.primitives import fake_quantize, nearest_values
from fisher_detr.structures import QuantSpec

DAMPING = 0.01  # GPTQ's, section 3.3
# Candidate scales, times the one of least squared error.
FACTORS = (1.0, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4)
_BLOCK = 32  # columns whose errors are passed on by one product
_AT_ONCE = 2**24  # values that are rounded at once: 128 MiB in float64, and as much twice more in between


class _Sweep(NamedTuple):
    """All columns, rounded with S scales.

    Attributes:
        values: `[S, G, K, C / G]`.
        losses: `d'Hd` of every channel, `[S, C]`.
    """

    values: Tensor
    losses: Tensor


class FisherRounding:
    """Rounds one weight at any width and scale; what depends on H alone is computed once.

    C are the output channels, K the inputs of each, G the groups. Computed in float64. An input that is
    always zero (its diagonal of H is 0) is rounded to nearest.
    """

    @torch.no_grad()
    def __init__(self, weight: Tensor, moment: Tensor, damping: float = DAMPING, descending: bool = True):
        """Prepare.

        Args:
            weight: `[C, ...]` with K values behind each channel.
            moment: H, `[G, K, K]` or `[K, K]`, positive semidefinite; its overall factor is irrelevant. With
                a last input more, K + 1, which is that of the bias.
            damping: this part of the mean of H's diagonal, without what a bias takes of it, is added to it: 0
                trusts H entirely, much rounds to nearest.
            descending: round the columns with the largest diagonal of H first, while many others can still
                make up for their errors; otherwise in their own order.

        Raises:
            ValueError: H does not fit the weight or is not finite, or is not positive definite even damped.
        """
        moment = checked_moment(moment, weight)
        columns = weight.detach().double().reshape(len(moment), len(weight) // len(moment), -1).mT
        damped, diagonal, floor = damp(moment, columns.shape[1], damping)
        self._order = _order(diagonal, descending)  # [G, K]
        self._columns = _take(columns, self._order)  # [G, K, C / G]
        whole = torch.cat([self._order, *_positions(moment, columns.shape[1])], dim=1)
        self._mixing, self._pivots = factorized(_take(_take(damped, whole).mT, whole), floor.gather(1, whole))
        self._weight = weight

    @property
    def has_bias(self) -> bool:
        """Whether the bias makes up for what the weights cannot."""
        return self._mixing.shape[-1] > self._columns.shape[1]

    def round(self, scale: Tensor, spec: QuantSpec) -> Tensor:
        """The rounded weight.

        Args:
            scale: `[C]` when `spec.per_channel`, else `[1]`; positive.
            spec: symmetric; width and range.

        Returns:
            Tensor: `level * scale`, of the shape and dtype of the weight: what `fake_quantize` returns
            unchanged.
        """
        return self.round_widths([scale], [spec])[0]

    @torch.no_grad()
    def round_widths(self, scales: Sequence[Tensor], specs: Sequence[QuantSpec]) -> list[Tensor]:
        """What `round` returns of each scale and width; faster than one after the other."""
        values = torch.cat([found.values for found in self._sweeps(scales, specs)])  # [S, G, K, C / G]
        order = self._order[None, ..., None].expand_as(values)
        values = torch.empty_like(values).scatter_(2, order, values).mT
        # Once more from the values themselves, which stay: in half precision and with other scales too.
        rounded = values.reshape(-1, *self._weight.shape).to(self._weight.dtype)
        return [fake_quantize(*parts) for parts in zip(rounded, scales, specs, strict=True)]

    def search_scale(self, scale: Tensor, spec: QuantSpec) -> Tensor:
        """The scale with which rounding leaves the least `d'Hd`, among some around a first one.

        Args:
            scale: the first one, as for `round`.
            spec: as for `round`.

        Returns:
            Tensor: of the shape and dtype of `scale`; the first one where none is better.
        """
        return self.search_scales([scale], [spec])[0]

    @torch.no_grad()
    def search_scales(self, scales: Sequence[Tensor], specs: Sequence[QuantSpec]) -> list[Tensor]:
        """What `search_scale` returns of each first scale and width; faster than one after the other."""
        tried = [torch.stack([scale * factor for factor in FACTORS]) for scale in scales]  # [F, C or 1] each
        of_each = [spec for spec in specs for _ in FACTORS]
        losses = torch.cat([found.losses for found in self._sweeps(torch.cat(tried), of_each)])  # [S F, C]
        return [_least(*pair) for pair in zip(tried, losses.split(len(FACTORS)), strict=True)]

    @torch.no_grad()
    def bias_shift(self, error: Tensor) -> Tensor | None:
        """What to add to the bias beside an error of the weight, `[C]` in its dtype; None: has no bias."""
        if not self.has_bias:
            return None
        errors = _take(error.double().reshape(*self._columns.mT.shape).mT, self._order)
        means = self._mixing[:, : errors.shape[1], -1:]  # [G, K, 1]: of what the inputs are
        return -(errors * means).sum(dim=1).reshape(-1).to(error.dtype)

    def _sweeps(self, scales: Sequence[Tensor] | Tensor, specs: Sequence[QuantSpec]) -> Iterator[_Sweep]:
        """All columns with S scales and widths, a part of the S at once."""
        if not len(scales) or len(scales) != len(specs):
            raise ValueError(
                f"{len(scales)} scales and {len(specs)} widths: expected as many, and one at least"
            )
        at_once = max(1, _AT_ONCE // self._columns.numel())
        for i in range(0, len(scales), at_once):
            yield self._sweep(scales[i : i + at_once], specs[i : i + at_once])

    def _sweep(self, scales: Sequence[Tensor] | Tensor, specs: Sequence[QuantSpec]) -> _Sweep:
        groups, num_inputs, channels = self._columns.shape
        columns = self._columns.repeat(1, 1, len(scales))  # [G, K, S C / G]
        steps = torch.stack([scale.expand(groups * channels) for scale in scales])  # [S, C]
        bounds = steps.new_tensor([spec.qmax for spec in specs])
        values, losses = self._round_columns(
            columns, *(self._of_rows(each) for each in (steps, bounds[:, None].expand_as(steps)))
        )
        values = values.unflatten(2, (len(scales), channels)).movedim(2, 0)
        return _Sweep(values, losses.unflatten(1, (len(scales), channels)).transpose(0, 1).flatten(1))

    def _of_rows(self, values: Tensor) -> Tensor:
        """Values by scale and channel, `[S, C]`, in the order of all rows of all groups: `[G, S C / G]`."""
        return values.unflatten(1, (len(self._columns), -1)).transpose(0, 1).flatten(1).contiguous()

    def _round_columns(self, columns: Tensor, steps: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
        """Round the columns `[G, K, N]` one after the other; and `d'Hd` of each row, `[G, N]`."""
        values, errors = torch.empty_like(columns), torch.empty_like(columns)
        losses = columns.new_zeros(columns.shape[0], columns.shape[2])
        for start in range(0, columns.shape[1], _BLOCK):
            stop = min(start + _BLOCK, columns.shape[1])
            passed = self._mixing[:, :start, start:stop].mT @ errors[:, :start]  # [G, block, N]
            for j in range(start, stop):
                within = self._mixing[:, None, start:j, j] @ errors[:, start:j]  # [G, 1, N]
                wanted = columns[:, j] - passed[:, j - start] - within[:, 0]
                values[:, j] = _nearest(wanted, self._weight.dtype, steps, bounds)
                errors[:, j] = values[:, j] - columns[:, j]
                losses += self._pivots[:, j, None] * (values[:, j] - wanted).square_()
        return values, losses


def _positions(moment: Tensor, num_inputs: int) -> list[Tensor]:
    """Of the bias, `[G, 1]`, where there is one."""
    return [
        torch.full((len(moment), 1), i, device=moment.device) for i in range(num_inputs, moment.shape[-1])
    ]


def _order(diagonal: Tensor, descending: bool) -> Tensor:
    """Which column comes when, `[G, K]`."""
    if descending:
        return diagonal.argsort(dim=1, descending=True, stable=True)
    return torch.arange(diagonal.shape[1], device=diagonal.device).expand(diagonal.shape)


def _take(columns: Tensor, order: Tensor) -> Tensor:
    return columns.gather(1, order[..., None].expand(*order.shape, columns.shape[-1]))


def _nearest(column: Tensor, dtype: torch.dtype, steps: Tensor, bounds: Tensor) -> Tensor:
    """As the weight's quantizer rounds, in its precision: `[G, N]`."""
    return nearest_values(column.to(torch.promote_types(dtype, torch.float32)), steps, bounds)


def _least(candidates: Tensor, losses: Tensor) -> Tensor:
    """The candidates, `[F, C or 1]`, of the least losses, `[F, C]`."""
    if candidates.shape[1] == 1:
        losses = losses.sum(dim=1, keepdim=True)
    return candidates.gather(0, losses.argmin(dim=0, keepdim=True))[0]
