"""Chooses the range of values that an activation quantizer represents, from a histogram."""

import enum
from collections.abc import Callable

import torch
from torch import Tensor

from fisher_detr.quantization.histogram import BINS, Histogram
from fisher_detr.structures import QuantSpec

# Candidate bounds are the extreme values times these factors, evenly spaced in the logarithm.
GRID_SIZE = 100
SMALLEST_FACTOR = 0.01


class RangeMethod(enum.StrEnum):
    """How the range of an activation is chosen from its values."""

    MAX = "max"
    PERCENTILE = "percentile"
    MSE = "mse"


def activation_range(
    histogram: Histogram, spec: QuantSpec, method: RangeMethod, percentile: float = 99.99
) -> tuple[float, float]:
    """Range of an activation.

    Args:
        histogram: of its values.
        spec: width of the quantizer, which matters for `mse` alone.
        method: max, percentile or least squared error.
        percentile: for `percentile`, in (50, 100]: the part of the values, in percent, that lies below the
            upper end, and as much lies above the lower end.

    Returns:
        tuple: low <= 0 and high >= 0.
    """
    method = RangeMethod(method)
    if method is RangeMethod.PERCENTILE:
        return _percentile_range(histogram, percentile)
    if method is RangeMethod.MSE:
        return _least_error_range(histogram, spec)
    return histogram.low, histogram.high


def _percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile of an activation range is {percentile}: expected above 50, at most 100")
    counts = histogram.counts.double()
    counts[BINS // 2] += histogram.zeros
    outside = (1 - percentile / 100) * histogram.total
    width = 2 * histogram.reach / BINS
    below, above = counts.cumsum(0), counts.flip(0).cumsum(0)
    # The outermost bins whose values are not all among those left outside; the range takes them whole.
    low = -histogram.reach + width * int((below <= outside).sum())
    high = histogram.reach - width * int((above <= outside).sum())
    return max(min(low, 0.0), histogram.low), min(max(high, 0.0), histogram.high)


def _least_error_range(histogram: Histogram, spec: QuantSpec) -> tuple[float, float]:
    """Shrink both ends together, then each alone; never worse than the whole range."""
    error = _error_of_ranges(histogram, spec)
    factors = torch.logspace(
        0, torch.log10(torch.tensor(SMALLEST_FACTOR)).item(), GRID_SIZE, dtype=torch.float64
    )
    lows, highs = histogram.low * factors, histogram.high * factors
    low, high = _best(error, lows, highs)
    low, high = _best(error, torch.full_like(highs, low), highs)
    return _best(error, lows, torch.full_like(lows, high))


def _best(error: Callable[[Tensor, Tensor], Tensor], lows: Tensor, highs: Tensor) -> tuple[float, float]:
    best = int(error(lows, highs).argmin())
    return float(lows[best]), float(highs[best])


def _error_of_ranges(histogram: Histogram, spec: QuantSpec) -> Callable[[Tensor, Tensor], Tensor]:
    filled = histogram.counts > 0
    values, counts = histogram.centers[filled], histogram.counts[filled].double()

    def error(lows: Tensor, highs: Tensor) -> Tensor:
        """Squared error over the values for each of P ranges `[lows[p], highs[p]]`."""
        if spec.symmetric:
            highs = torch.maximum(-lows, highs)
            lows = -highs
        scale = ((highs - lows) / (spec.qmax - spec.qmin)).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        zero = torch.round(spec.qmin - lows[:, None] / scale) if not spec.symmetric else 0.0
        levels = (torch.round(values / scale) + zero).clamp(spec.qmin, spec.qmax)  # [P, filled bins]
        return ((levels - zero) * scale - values).square() @ counts

    return error
