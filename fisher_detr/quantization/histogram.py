"""A histogram that is filled batch by batch, over a range that grows with the values."""

import math

import torch
from torch import Tensor

BINS = 8192
SMALLEST_REACH = 2.0**-100  # BINS over it is a number in float32


class Histogram:
    """Counts of values in `BINS` equal bins over `[-reach, reach)`, where `reach` is a power of two.

    When a value lies outside, the reach doubles and neighbouring bins merge, so every value is seen, memory
    is bounded, the result does not depend on the order of the batches, and histograms of several processes
    can be added up. Zeros (a ReLU's, which every range represents exactly) are counted apart.

    Attributes:
        counts: int64 `[BINS]`, of the values other than 0.
        zeros: number of values that are exactly 0.
        low: smallest value, at most 0.
        high: largest value, at least 0.
        reach: half the width of the range; 0 before a value other than 0 was seen.
    """

    def __init__(self):
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.zeros = 0
        self.low = self.high = 0.0
        self.reach = 0.0

    @property
    def total(self) -> int:
        """Number of values seen."""
        return self.zeros + int(self.counts.sum())

    @property
    def centers(self) -> Tensor:
        """Middle of each bin, float64 `[BINS]`."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * self.reach / BINS) - self.reach

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add the values of a tensor of any shape.

        Raises:
            ValueError: a value is not finite.
        """
        x = x.detach().float().flatten()
        if not x.numel():
            return
        low, high = (bound.item() for bound in torch.aminmax(x))
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(
                f"activation values are not finite ({low} to {high}): check the weights and the images"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        nonzero = x[x != 0]
        self.zeros += x.numel() - nonzero.numel()
        if nonzero.numel():
            # Exact, because the width of a bin is a power of two.
            bins = (nonzero * (BINS / 2 / self.reach)).floor_().long() + BINS // 2
            self.counts += torch.bincount(bins, minlength=BINS).cpu()

    def add(self, other: "Histogram") -> None:
        """Add what another histogram has seen."""
        reach = max(self.reach, other.reach)
        other = Histogram.from_state(other.state_dict())
        for one in (self, other):
            one._grow_to(reach)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        self.counts += other.counts

    def state_dict(self) -> dict[str, Tensor | float]:
        """What `from_state` restores."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: dict[str, Tensor | float]) -> "Histogram":
        """A histogram that goes on from a state."""
        histogram = cls()
        vars(histogram).update(state)
        histogram.counts = histogram.counts.clone()  # counted in place
        return histogram

    def _grow(self, largest: float) -> None:
        if largest < self.reach or largest == 0:
            return
        self._grow_to(max(2.0 ** math.frexp(largest)[1], SMALLEST_REACH))

    def _grow_to(self, reach: float) -> None:
        while 0 < self.reach < reach:
            merged = self.counts.view(-1, 2).sum(dim=1)
            self.counts = torch.nn.functional.pad(merged, (BINS // 4, BINS // 4))
            self.reach *= 2
        self.reach = reach
