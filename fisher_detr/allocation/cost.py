"""SensitivityTable -> cost of every layer and width."""

import numpy as np

from fisher_detr.structures import Objective, SensitivityTable

# A combined form this far below zero, relative to its parts, is no rounding error.
_ROUNDING = 1e-9


def combine(table: SensitivityTable, objective: Objective) -> np.ndarray:
    """Join the terms of a table into the cost that a plan minimises (method.md section 3).

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


def make_monotone(cost: np.ndarray) -> np.ndarray:
    """Let no width cost less than a wider one, as noise of the estimate can make it.

    Args:
        cost: `[L, W]`, widths ascending.

    Returns:
        `[L, W]`: the largest cost at this width or a wider one.
    """
    return np.maximum.accumulate(cost[:, ::-1], axis=1)[:, ::-1]
