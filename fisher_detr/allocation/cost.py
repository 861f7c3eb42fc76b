"""SensitivityTable -> cost of every layer and width."""

import numpy as np

from fisher_detr.structures import Objective, SensitivityTable

# A combined form this far below zero, relative to its parts, is no rounding error.
_ROUNDING = 1e-9


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
