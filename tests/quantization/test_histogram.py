"""Histograms that are added up, stored, and go on; what they count is checked in test_calibration."""

import itertools

import pytest
import torch

from fisher_detr.quantization import Histogram
from fisher_detr.quantization.histogram import SMALLEST_REACH

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = {
    "nothing": torch.empty(0),
    "zeros": torch.zeros(7),
    "small": 0.01 * torch.randn(50, generator=GENERATOR),
    "large": torch.cat([100 * torch.randn(50, generator=GENERATOR), torch.zeros(3)]),
    "positive": torch.rand(20, generator=GENERATOR) + 1,
}


def histogram_of(*names):
    histogram = Histogram()
    for name in names:
        histogram.update(BATCHES[name])
    return histogram


def assert_same(found, expected):
    assert torch.equal(found.counts, expected.counts)
    for name in ("zeros", "low", "high", "reach", "total"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize(("first", "second"), list(itertools.product(BATCHES, BATCHES)))
def test_sum_is_the_histogram_of_everything(first, second):
    found, other = histogram_of(first), histogram_of(second)
    before = histogram_of(second)
    found.add(other)
    assert_same(found, histogram_of(first, second))
    assert_same(other, before)


@pytest.mark.parametrize("name", BATCHES)
def test_goes_on_from_a_state(name):
    histogram = histogram_of(name)
    state = {key: value.clone() if key == "counts" else value for key, value in vars(histogram).items()}
    restored = Histogram.from_state(histogram.state_dict())
    assert_same(restored, histogram)
    restored.update(BATCHES["large"])
    assert_same(restored, histogram_of(name, "large"))
    assert_same(histogram, Histogram.from_state(state))  # as it was


@pytest.mark.parametrize("value", [1e-30, 1e-36, 1e-44])
def test_values_that_are_nearly_zero(value):
    """A layer may be dead in a whole batch; a bin is then wider than the values."""
    x = torch.tensor([value, -value, 0.0])
    histogram = Histogram()
    histogram.update(x)
    assert (histogram.total, histogram.zeros) == (3, 1)
    assert (histogram.low, histogram.high) == (x.min().item(), x.max().item())
    assert histogram.reach >= SMALLEST_REACH
    histogram.update(torch.ones(2))
    assert histogram.total == 5 and histogram.reach == 2.0
