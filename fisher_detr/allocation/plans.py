"""Cost and limits -> BitAllocation."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fisher_detr.allocation.conflicts import first_choice
from fisher_detr.allocation.constraints import Constraint, byte_limit, byte_sizes
from fisher_detr.allocation.cost import Costs
from fisher_detr.allocation.problem import Problem, chosen, problem_of
from fisher_detr.allocation.reasons import plan_reasons
from fisher_detr.allocation.restrictions import Restrictions
from fisher_detr.allocation.search import optimise
from fisher_detr.allocation.solver import Choice
from fisher_detr.structures import BitAllocation, LayerInfo

logger = logging.getLogger(__name__)


def allocate(
    cost: np.ndarray | Costs,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    budget: float | None,
    gap: float = 1e-4,
    time_limit: float = 60.0,
    meta: Mapping[str, Any] | None = None,
    *,
    constraints: Sequence[Constraint] = (),
    restrictions: Restrictions | None = None,
) -> BitAllocation:
    """Choose one width for each layer: the least total cost within limits, by integer linear programming.

    The plan does not depend on the unit of the cost, and is never worse than a uniform plan that holds the
    limits (fixed layers aside). What the optimum leaves goes to layers that can be widened at no cost.

    Args:
        cost: `[L, W]`, finite and not negative, or the `Costs` of several critical sets.
        layers: L layers.
        widths: W candidate widths in bits, ascending.
        budget: largest size in bytes, scales included; None: the size is not limited.
        gap: relative optimality gap at which the search may end.
        time_limit: seconds after which the best plan so far is taken; `meta["gap"]` says what was proven.
        meta: goes into the plan.
        constraints: limits beside the budget.
        restrictions: ties, fixed layers, smallest and largest width.

    Returns:
        The plan. Beside what was given, `meta` has the "gap" that was proven, the "aggregate" and the
        "prediction" (cost by set), the "constraints" with what is used of them, and the reasons of every
        layer, "layers" (see `layer_reasons`).

    Raises:
        ValueError: no plan holds the limits, and which ones conflict; unknown layers or widths; or the cost
            has another shape, is negative or is not finite.
    """
    check_search(gap, time_limit)
    limits = [*constraints] if budget is None else [byte_limit(layers, widths, budget), *constraints]
    problem = problem_of(Costs.of(cost), layers, widths, limits, restrictions)
    start = first_choice(problem, time_limit)
    choice = optimise(problem.program, start, gap, time_limit)
    if choice.gap > gap + 1e-6:
        logger.warning(
            "Bit allocation: %.2g from optimal (asked for %.2g): raise the time limit", choice.gap, gap
        )
    logger.info("Bit allocation: cost %.4g, at first %.4g", choice.cost, problem.program.objective(start))
    return plan_of(problem, choice, budget, meta)


def plan_of(
    problem: Problem, choice: Choice, budget: float | None, meta: Mapping[str, Any] | None = None
) -> BitAllocation:
    """The plan that a choice stands for; without a budget, its size is its budget."""
    columns = problem.layer_columns(choice.columns)
    size = int(chosen(byte_sizes(problem.layers, problem.widths), columns).sum())
    return BitAllocation(
        bits={name: int(problem.widths[c]) for name, c in zip(problem.names, columns, strict=True)},
        size_bytes=size,
        budget_bytes=size if budget is None else int(budget),
        cost=choice.cost,
        meta={**(meta or {}), "gap": choice.gap, **plan_reasons(problem, choice.columns)},
    )


def check_search(gap: float, time_limit: float) -> None:
    """Raise ValueError unless a search can be told to end so."""
    if not 0.0 <= gap < 1.0 or not time_limit > 0.0:
        raise ValueError(
            f"gap {gap} and time limit {time_limit}: expected a gap in [0, 1) and a limit above 0 seconds"
        )
