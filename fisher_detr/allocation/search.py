"""What the optimum leaves open: sets that are not the worst, and usage that is left."""

import dataclasses
import time

import numpy as np

from fisher_detr.allocation.problem import Program, chosen
from fisher_detr.allocation.solver import Choice, solve

_SUM_GAP = 1e-2  # of the sum of the costs, which only decides among choices that are as good


def optimise(
    program: Program, start: np.ndarray, gap: float, time_limit: float, bound: float = 0.0
) -> Choice:
    """The best choice; among those as good, one that serves the other sets too and leaves nothing unused.

    Args:
        program: costs, limits and allowed columns.
        start: a feasible choice `[G]`; the result is never worse.
        gap: relative optimality gap at which the search may end.
        time_limit: seconds.
        bound: known lower bound on the cost.
    """
    if len(program.costs) == 1:
        return spend_rest(program, solve(program, start, gap, time_limit, bound))
    return spend_rest(program, _least_largest(program, start, gap, time_limit, bound))


def spend_rest(program: Program, choice: Choice) -> Choice:
    """Widen rows within the limits where no cost rises: a predicted damage of zero is only an estimate.

    The largest gain for the share of the limits that it takes goes first, then the narrowest row, then the
    first.

    Args:
        program: costs, limits and allowed columns.
        choice: feasible.

    Returns:
        A choice that costs no more.
    """
    columns = choice.columns.copy()
    while True:
        row, column, rate = _free_steps(program, columns)
        if len(row) == 0:
            return Choice(columns, program.objective(columns), choice.bound)
        first = np.lexsort((column, row, columns[row], -rate))[0]
        columns[row[first]] = column[first]


def _free_steps(program: Program, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, wider columns and gain for the share of the limits, of steps that are within all limits."""
    rise, extra = (
        values - chosen(values, columns)[..., None] for values in (program.costs, program.usages)
    )  # [S, G, W], [K, G, W]
    left = program.limits - program.used(columns)
    wider = np.arange(program.allowed.shape[1]) > columns[:, None]
    fits = (extra <= left[:, None, None]).all(axis=0)
    row, column = np.nonzero(program.allowed & wider & fits & (rise <= 0.0).all(axis=0))
    part = 1.0 / np.where(program.limits > 0.0, program.limits, np.inf)  # [K]
    share = part @ extra[:, row, column]
    gain = -rise[:, row, column].sum(axis=0)
    rate = np.divide(gain, share, out=np.full(len(row), np.inf), where=share > 0.0)
    return row, column, rate


def _least_largest(
    program: Program, start: np.ndarray, gap: float, time_limit: float, bound: float
) -> Choice:
    """The choice whose largest cost is least and, of those that are as good, about the least sum.

    The least sum comes first: it is found much sooner, has no large costs either, and bounds the sum.
    """
    deadline = time.monotonic() + time_limit
    summed = dataclasses.replace(program, costs=program.costs.sum(axis=0, keepdims=True))
    least = solve(summed, start, _SUM_GAP, time_limit)
    start = min(start, least.columns, key=program.objective)
    choice = solve(program, start, gap, deadline - time.monotonic(), bound)
    capped = dataclasses.replace(
        summed,
        usages=np.concatenate([program.usages, program.costs]),
        limits=np.append(program.limits, np.full(len(program.costs), choice.cost)),
    )
    columns = solve(capped, choice.columns, _SUM_GAP, deadline - time.monotonic(), least.bound).columns
    return Choice(columns, program.objective(columns), choice.bound)
