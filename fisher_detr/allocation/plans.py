"""Cost and budget -> BitAllocation, and the arms that are compared at equal bytes."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fisher_detr.allocation.cost import combine
from fisher_detr.allocation.solver import solve, spend_rest, total
from fisher_detr.structures import (
    MAX_BITS,
    MIN_BITS,
    Arm,
    BitAllocation,
    LayerInfo,
    Objective,
    SensitivityTable,
    check_layers,
    check_widths,
)

logger = logging.getLogger(__name__)


def budget_bytes(layers: Sequence[LayerInfo], average_bits: float) -> int:
    """Budget: the bytes of all layers at one width, scales included.

    Args:
        layers: the layers.
        average_bits: width in bits, 2 to 8; the bytes of 3.5 lie half-way between those of 3 and 4.
    """
    check_layers(layers)
    if not MIN_BITS <= average_bits <= MAX_BITS:
        raise ValueError(f"average of {average_bits} bits: expected {MIN_BITS} to {MAX_BITS}")
    below = int(average_bits)
    size, wider = (sum(layer.size_bytes(bits) for layer in layers) for bits in (below, below + 1))
    return size + int((average_bits - below) * (wider - size))


def uniform(layers: Sequence[LayerInfo], bits: int, meta: Mapping[str, Any] | None = None) -> BitAllocation:
    """One width for all layers; its budget is its size.

    Raises:
        ValueError: the width is not a whole number from 2 to 8.
    """
    size = budget_bytes(layers, bits)
    if bits != int(bits):
        raise ValueError(f"uniform has whole widths, not {bits} bits: take {int(bits)} or {int(bits) + 1}")
    return BitAllocation({layer.name: int(bits) for layer in layers}, size, size, meta=dict(meta or {}))


def allocate(
    cost: np.ndarray,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    budget: int,
    gap: float = 1e-4,
    time_limit: float = 60.0,
    meta: Mapping[str, Any] | None = None,
) -> BitAllocation:
    """Choose one width for each layer: the least total cost within a budget, by integer linear programming.

    The plan does not depend on the unit of the cost, and is never worse than the widest uniform plan that
    fits. Bytes that the optimum leaves go to layers that can be widened at no cost.

    Args:
        cost: `[L, W]`, finite and not negative.
        layers: L layers.
        widths: W candidate widths in bits, ascending.
        budget: largest size in bytes, scales included.
        gap: relative optimality gap at which the search may end.
        time_limit: seconds after which the best plan so far is taken; `meta["gap"]` says what was proven.
        meta: goes into the plan.

    Returns:
        The plan; `meta` has the "gap" that was proven beside what was given.

    Raises:
        ValueError: the budget is below the smallest plan, or the cost has another shape, is negative or is
            not finite.
    """
    cost = _check(cost, layers, widths, gap, time_limit)
    sizes = np.array([[layer.size_bytes(bits) for bits in widths] for layer in layers])
    start = _widest_uniform(sizes, budget, widths)
    choice = spend_rest(cost, sizes, budget, solve(cost, sizes, budget, start, gap, time_limit))
    if choice.gap > gap + 1e-6:
        logger.warning(
            "Bit allocation: %.2g from optimal (asked for %.2g): raise the time limit", choice.gap, gap
        )
    logger.info("Bit allocation: cost %.4g, uniform %.4g", choice.cost, total(cost, start))
    return BitAllocation(
        bits={layer.name: int(widths[column]) for layer, column in zip(layers, choice.columns, strict=True)},
        size_bytes=int(total(sizes, choice.columns)),
        budget_bytes=int(budget),
        cost=choice.cost,
        meta={**(meta or {}), "gap": choice.gap},
    )


def allocate_arm(
    arm: Arm,
    layers: Sequence[LayerInfo],
    average_bits: float,
    table: SensitivityTable | None = None,
    objective: Objective | None = None,
    gap: float = 1e-4,
    time_limit: float = 60.0,
) -> BitAllocation:
    """The plan of one arm at the bytes of a uniform width.

    Args:
        arm: UNIFORM; FISHER_OVERALL, which leaves the critical objective out (a_F = 0); or FISHER_CRITICAL.
        layers: all layers that are quantized.
        average_bits: width in bits whose uniform size is the budget; a whole number for UNIFORM.
        table: sensitivities of the same layers; not needed for UNIFORM.
        objective: weights of the objectives and how they are combined.
        gap: relative optimality gap.
        time_limit: seconds.

    Returns:
        The plan; `meta` says arm, average width, objective, gap, and where the sensitivities came from.

    Raises:
        ValueError: the table is missing or of other layers, or what `allocate` and `combine` raise.
    """
    meta: dict[str, Any] = {"arm": str(arm), "average_bits": average_bits}
    if arm == Arm.UNIFORM:
        return uniform(layers, average_bits, meta)
    _check_table(table, layers, arm)
    objective = objective or Objective()
    if arm == Arm.FISHER_OVERALL:
        objective = Objective(objective.overall_weight or 1.0, 0.0, objective.combine)
    meta |= {
        "objective": dataclasses.asdict(objective),
        "form": str(table.form),
        "sensitivity": dict(table.meta),
    }
    cost, budget = combine(table, objective), budget_bytes(layers, average_bits)
    return allocate(cost, layers, table.widths, budget, gap, time_limit, meta)


def _check(
    cost: np.ndarray, layers: Sequence[LayerInfo], widths: Sequence[int], gap: float, limit: float
) -> np.ndarray:
    check_layers(layers)
    check_widths(widths)
    cost = np.asarray(cost, dtype=np.float64)
    if cost.shape != (len(layers), len(widths)):
        raise ValueError(f"cost has shape {cost.shape}, expected {len(layers)} layers x {len(widths)} widths")
    if not np.isfinite(cost).all() or (cost < 0.0).any():
        raise ValueError(
            f"cost from {cost.min():g} to {cost.max():g}: expected finite numbers that are not negative"
        )
    if not 0.0 <= gap < 1.0 or not limit > 0.0:
        raise ValueError(
            f"gap {gap} and time limit {limit}: expected a gap in [0, 1) and a limit above 0 seconds"
        )
    return cost


def _widest_uniform(sizes: np.ndarray, budget: int, widths: Sequence[int]) -> np.ndarray:
    """Columns `[L]` of the widest uniform plan that fits."""
    totals = sizes.sum(axis=0)
    if totals[0] > budget:
        raise ValueError(
            f"budget of {budget} bytes is too small: the smallest feasible one is {totals[0]} bytes "
            f"(all {len(sizes)} layers at {widths[0]} bits)"
        )
    return np.full(len(sizes), np.flatnonzero(totals <= budget)[-1])


def _check_table(table: SensitivityTable | None, layers: Sequence[LayerInfo], arm: Arm) -> None:
    if table is None:
        raise ValueError(
            f"arm {arm} needs a sensitivity table: compute one or give ALLOCATION.SENSITIVITY_FILE"
        )
    if tuple(table.layers) != tuple(layers):
        other = sorted({layer.name for layer in set(table.layers) ^ set(layers)})
        raise ValueError(
            f"the sensitivity table has {len(table.layers)} layers, the model {len(layers)}; they differ in "
            f"{other[:5] or 'their order'}: compute it again for this model and these settings"
        )
