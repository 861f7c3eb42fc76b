"""The curve of predicted cost against bytes."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fisher_detr.allocation.conflicts import first_choice, least_use
from fisher_detr.allocation.constraints import Constraint, byte_limit, byte_sizes
from fisher_detr.allocation.cost import Costs
from fisher_detr.allocation.plans import check_search, plan_of
from fisher_detr.allocation.problem import Problem, problem_of
from fisher_detr.allocation.restrictions import Restrictions
from fisher_detr.allocation.search import optimise
from fisher_detr.allocation.solver import solve
from fisher_detr.structures import BitAllocation, LayerInfo

logger = logging.getLogger(__name__)


def pareto(
    cost: np.ndarray | Costs,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    points: int = 25,
    gap: float = 1e-3,
    time_limit: float = 60.0,
    meta: Mapping[str, Any] | None = None,
    *,
    constraints: Sequence[Constraint] = (),
    restrictions: Restrictions | None = None,
) -> list[BitAllocation]:
    """Plans at budgets that are evenly spaced from the smallest plan to the best one whatever its size.

    Args:
        cost: `[L, W]`, or the `Costs` of several critical sets.
        layers: L layers.
        widths: W candidate widths in bits, ascending.
        points: number of budgets, 2 or more.
        gap: relative optimality gap of each plan.
        time_limit: seconds for all of them.
        meta: goes into each plan.
        constraints: limits beside the bytes, which every plan holds.
        restrictions: ties, fixed layers, smallest and largest width.

    Returns:
        Plans by size, from the smallest; each costs less than those before it, so there may be fewer than
        `points`. Their `meta` is that of `allocate`.

    Raises:
        ValueError: what `allocate` raises, or fewer than 2 points.
    """
    check_search(gap, time_limit)
    if points < 2:
        raise ValueError(f"a curve of {points} points: expected 2 or more")
    deadline = time.monotonic() + time_limit
    unlimited = problem_of(Costs.of(cost), layers, widths, constraints, restrictions)
    smallest, budgets, bound = _ends(unlimited, points, gap, time_limit)
    plans, start = [], smallest
    for index, budget in enumerate(budgets):
        problem = _with_budget(unlimited, budget)
        seconds = max(deadline - time.monotonic(), 0.0) / (points - index)
        choice = optimise(problem.program, start, gap, seconds, bound)
        start = choice.columns  # a larger budget holds it too
        plan = plan_of(problem, choice, budget, meta)
        if not plans or plan.cost < plans[-1].cost:
            plans.append(plan)
    if (worst := max(plan.meta["gap"] for plan in plans)) > gap + 1e-6:
        logger.warning("Curve of plans: up to %.2g from optimal (asked for %.2g)", worst, gap)
    return plans


def _ends(
    problem: Problem, points: int, gap: float, time_limit: float
) -> tuple[np.ndarray, list[int], float]:
    """The smallest choice, the budgets, and a lower bound on the cost of any plan."""
    first = first_choice(problem, time_limit)
    sizes = byte_limit(problem.layers, problem.widths, 0)
    smallest = least_use(
        dataclasses.replace(problem, constraints=(*problem.constraints, sizes)), sizes, time_limit
    )
    best = solve(problem.program, first, gap, time_limit)
    ends = [_size(problem, columns) for columns in (smallest, best.columns)]
    return smallest, np.linspace(*ends, points).astype(int).tolist(), best.bound


def _with_budget(problem: Problem, budget: int) -> Problem:
    limit = byte_limit(problem.layers, problem.widths, budget)
    return dataclasses.replace(problem, constraints=(limit, *problem.constraints))


def _size(problem: Problem, columns: np.ndarray) -> int:
    of_layer = problem.layer_columns(columns)
    return int(byte_sizes(problem.layers, problem.widths)[np.arange(len(of_layer)), of_layer].sum())
