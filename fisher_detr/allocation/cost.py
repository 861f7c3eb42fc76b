"""SensitivityTable -> cost of every layer and width, of one critical set or of several."""

import dataclasses
import enum
from collections.abc import Mapping

import numpy as np

from fisher_detr.structures import Objective, SensitivityTable

# A combined form this far below zero, relative to its parts, is no rounding error.
_ROUNDING = 1e-9
ONLY_SET = "all"  # name where nothing tells critical sets apart


class Aggregate(enum.StrEnum):
    """How the costs of several critical sets become one."""

    WEIGHTED_SUM = "weighted_sum"
    WORST_CASE = "worst_case"  # the largest of the weighted costs


@dataclasses.dataclass(frozen=True)
class Costs:
    """Predicted damage by critical set, layer and width, and how the sets count.

    The sets are weighed as they come: who wants them to be comparable divides each by its own unit before.

    Attributes:
        values: `[S, L, W]` float64 of S sets, L layers, W widths; finite and not negative.
        names: S names.
        weights: S factors, not negative, one of them positive.
        aggregate: sum or largest of the weighted costs.
    """

    values: np.ndarray
    names: tuple[str, ...]
    weights: tuple[float, ...]
    aggregate: Aggregate = Aggregate.WEIGHTED_SUM

    def __post_init__(self):
        if self.values.ndim != 3 or not len(self.values) == len(self.names) == len(self.weights) > 0:
            raise ValueError(
                f"costs of shape {self.values.shape}, names {self.names}, weights {self.weights}: expected "
                "[sets, layers, widths], and one name and weight for each set"
            )
        if not np.isfinite(self.values).all() or (self.values < 0.0).any():
            raise ValueError(
                f"cost from {self.values.min():g} to {self.values.max():g}: "
                "expected finite numbers that are not negative"
            )
        with np.errstate(over="ignore"):
            is_finite = np.isfinite(self.objectives.max(axis=-1).sum(axis=-1)).all()
        if not is_finite and all(weight < float("inf") for weight in self.weights):
            raise ValueError(
                f"cost up to {self.values.max():g}: a sum over the layers is beyond all numbers, use another "
                "unit"
            )
        if not all(0.0 <= weight < float("inf") for weight in self.weights) or not any(self.weights):
            raise ValueError(
                f"weights of the sets {self.weights}: expected finite numbers that are not negative, "
                "one of them above 0"
            )

    @classmethod
    def of(
        cls,
        cost: "np.ndarray | Mapping[str, np.ndarray] | Costs",
        weights: Mapping[str, float] | None = None,
        aggregate: Aggregate = Aggregate.WEIGHTED_SUM,
    ) -> "Costs":
        """Costs from `[L, W]` of the only set, or from `[L, W]` by the name of the set.

        Args:
            cost: where it is `Costs` already, it is returned as it is.
            weights: factor by set; sets that are not named have 1.
            aggregate: how several become one.

        Raises:
            ValueError: a weight of an unknown set, arrays of several shapes, or what `Costs` refuses.
        """
        if isinstance(cost, Costs):
            return cost
        by_name = cost if isinstance(cost, Mapping) else {ONLY_SET: cost}
        if unknown := sorted(set(weights or {}) - set(by_name)):
            raise ValueError(f"weights of the sets {unknown}: the sets are {sorted(by_name)}")
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in by_name.items()}
        if len({values.shape for values in arrays.values()}) != 1:
            shapes = {name: values.shape for name, values in arrays.items()}
            raise ValueError(
                f"costs of the sets have the shapes {shapes}: expected one shape [layers, widths]"
            )
        factors = tuple((weights or {}).get(name, 1.0) for name in arrays)
        return cls(np.stack(list(arrays.values())), tuple(arrays), factors, Aggregate(aggregate))

    @property
    def objectives(self) -> np.ndarray:
        """What is summed over the layers, and of whose sums the largest is minimised: `[S or 1, L, W]`."""
        weighted = self.values * np.array(self.weights)[:, None, None]
        return weighted if self.aggregate is Aggregate.WORST_CASE else weighted.sum(axis=0, keepdims=True)


def combine(table: SensitivityTable, objective: Objective) -> np.ndarray:
    """Join the terms of a table into the cost that a plan minimises.

    Noise of the estimate can let a width cost more than a narrower one. It is left so: costs forced to fall
    with the width gave no better plans (simulated estimates from 8, 32 and 128 images).

    Args:
        table: sensitivity by term.
        objective: weights a_A, a_F and the form of the combination.

    Returns:
        `[L, W]` float64, not negative.

    Raises:
        ValueError: a term that counts is not in the table or is zero, or the terms contradict each other.
    """
    factors = objective.factors(table.traces)
    parts = np.stack([factor * table.terms[term] for term, factor in factors.items()])
    cost = parts.sum(axis=0)
    if (cost < -_ROUNDING * np.abs(parts).sum(axis=0)).any():
        raise ValueError(
            f"the terms {sorted(factors)} combine to a negative sensitivity: they are not from one estimate"
        )
    return cost.clip(min=0.0)
