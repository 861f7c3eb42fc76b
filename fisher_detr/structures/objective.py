"""What a plan minimises."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from fisher_detr.structures.options import Combination


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a plan minimises: the Fisher information of both objectives as one (method.md section 3).

    `square_of_sum` takes `E[(a_A g_A + a_F g_F)^2]`, `sum_of_normalized` takes
    `a_A I_A / tr I_A + a_F I_F / tr I_F`.

    Attributes:
        overall_weight: a_A, not negative.
        critical_weight: a_F, not negative; 0 leaves the critical objective out.
        combine: which of the two forms.
    """

    overall_weight: float = 1.0
    critical_weight: float = 1.0
    combine: Combination = Combination.SUM_OF_NORMALIZED

    def __post_init__(self):
        for name in ("overall_weight", "critical_weight"):
            weight = getattr(self, name)
            if not 0.0 <= weight < float("inf"):
                raise ValueError(f"{name} {weight}: expected a finite number that is not negative")
        if self.overall_weight == self.critical_weight == 0.0:
            raise ValueError("overall_weight and critical_weight are both 0: one of them must count")

    def factors(self, traces: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Factor of every term: both forms are linear in the stored terms.

        Args:
            traces: trace of each layer's Fisher information by term, each `[L]`.

        Returns:
            Factor by term name; terms that do not count are left out.

        Raises:
            ValueError: a term is needed that was not estimated, or whose Fisher information is zero.
        """
        a, f = self.overall_weight, self.critical_weight
        if self.combine == Combination.SQUARE_OF_SUM:
            factors = {"overall": a * a, "cross": 2.0 * a * f, "critical": f * f}
        else:
            factors = {"overall": a, "critical": f}
        factors = {term: factor for term, factor in factors.items() if factor}
        if absent := sorted(set(factors) - set(traces)):
            raise ValueError(
                f"{self.combine} needs the terms {absent}, the estimate has {sorted(traces)}: "
                "estimate it with that objective (CRITICAL.TARGET) or set its weight to 0"
            )
        if self.combine == Combination.SQUARE_OF_SUM:
            return factors
        return {term: factor / _total_trace(term, traces[term]) for term, factor in factors.items()}


def _total_trace(term: str, traces: np.ndarray) -> float:
    total = float(np.sum(traces))
    if not total > 0.0:
        raise ValueError(
            f"the Fisher trace of {term!r} is {total:g}: its loss does not depend on these weights on any "
            "calibration image; calibrate on other images or set its weight to 0"
        )
    return total
