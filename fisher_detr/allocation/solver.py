"""Multiple-choice integer programs by HiGHS, made independent of the unit of the cost.

HiGHS works with absolute tolerances: costs far from 1 are solved wrongly without a word. So it sees every
program in units of the best choice known (at first the uniform plan costs 1e3), and again where a far better
one has turned up.
"""

import dataclasses
import time

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

_REFERENCE_COST = 1e3  # of the best choice known, as HiGHS sees it
_ABSOLUTE_GAP = 1e-6  # at which HiGHS stops whatever it is asked for; SciPy cannot set it
_NEW_UNITS = 0.5  # solve again where the cost fell below this part of the old
_SIGNIFICANT_BITS = 30  # of the scaled costs (1e-9): the unit of the cost leaves no trace in their rounding
_MAX_SOLVES = 50


@dataclasses.dataclass(frozen=True)
class Choice:
    """One width for each of L layers.

    Attributes:
        columns: index of the chosen width, `[L]`.
        cost: what it costs.
        bound: proven lower bound on the cost of every feasible choice.
    """

    columns: np.ndarray
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        """Relative optimality gap that was proven; 0 is optimal."""
        return max(0.0, 1.0 - self.bound / self.cost) if self.cost > 0.0 else 0.0


def solve(
    cost: np.ndarray, sizes: np.ndarray, budget: int, start: np.ndarray, gap: float, time_limit: float
) -> Choice:
    """Minimise `sum_l cost[l, b_l]` subject to `sum_l sizes[l, b_l] <= budget`.

    Args:
        cost: `[L, W]`, finite and not negative.
        sizes: `[L, W]` whole numbers.
        budget: largest total size.
        start: a feasible choice `[L]`; the result is never worse.
        gap: relative optimality gap at which the search may end.
        time_limit: seconds; where it ends the search, the result depends on the speed of the machine.

    Returns:
        The best choice found, and what was proven about it.
    """
    deadline = time.monotonic() + time_limit
    best = Choice(start, total(cost, start), float(cost.min(axis=1).sum()))
    least = sizes.min(axis=1, keepdims=True)
    extra, room = sizes - least, budget - int(least.sum())  # what is left to decide, and the bytes for it
    limit = room
    for _ in range(_MAX_SOLVES):
        seconds = deadline - time.monotonic()
        if best.gap <= gap or limit < 0 or seconds <= 0.0:
            break
        result = _solve_scaled(cost, extra / max(room, 1), limit / max(room, 1), best, gap, seconds)
        if limit == room and result.mip_dual_bound is not None:
            bound = (result.mip_dual_bound - _ABSOLUTE_GAP) * best.cost / _REFERENCE_COST
            best = dataclasses.replace(best, bound=min(max(best.bound, bound), best.cost))
        if result.x is None:
            break
        columns = result.x.reshape(cost.shape).argmax(axis=1)
        overrun = int(total(extra, columns)) - room
        if overrun > 0:  # within HiGHS's tolerance, but a budget in bytes is exact
            limit -= overrun
            continue
        before, best = best, _better(best, columns, cost)
        if best.cost >= _NEW_UNITS * before.cost:
            break
    return best


def spend_rest(cost: np.ndarray, sizes: np.ndarray, budget: int, choice: Choice) -> Choice:
    """Widen layers while bytes are left and no cost rises: a predicted damage of zero is only an estimate.

    The largest gain for each byte goes first, then the narrowest layer, then the first.

    Args:
        cost: `[L, W]`.
        sizes: `[L, W]`.
        budget: largest total size.
        choice: feasible.

    Returns:
        A choice that costs no more.
    """
    columns = choice.columns.copy()
    rows = np.arange(len(columns))
    while True:
        extra = sizes - sizes[rows, columns][:, None]
        gain = cost[rows, columns][:, None] - cost
        possible = (extra > 0) & (extra <= budget - total(sizes, columns)) & (gain >= 0.0)
        layer, column = np.nonzero(possible)
        if len(layer) == 0:
            return Choice(columns, total(cost, columns), choice.bound)
        rate = gain[layer, column] / extra[layer, column]
        first = np.lexsort((column, layer, columns[layer], -rate))[0]
        columns[layer[first]] = column[first]


def total(values: np.ndarray, columns: np.ndarray) -> float:
    """Sum of the chosen entries of `[L, W]`."""
    return float(values[np.arange(len(columns)), columns].sum())


def _solve_scaled(
    cost: np.ndarray, extra: np.ndarray, limit: float, best: Choice, gap: float, seconds: float
) -> OptimizeResult:
    """One call of HiGHS, in units of the best choice known; `extra` in units of the budget."""
    num_layers, num_widths = cost.shape
    useful = _can_be_better(cost, best)
    scaled = _round_significant(np.where(useful, cost, 0.0) / best.cost * _REFERENCE_COST)
    one_width = sparse.kron(sparse.eye_array(num_layers), np.ones((1, num_widths)), format="csr")
    return milp(
        scaled.ravel(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0.0, useful.ravel().astype(float)),
        constraints=[
            LinearConstraint(one_width, 1.0, 1.0),
            LinearConstraint(extra.reshape(1, -1), -np.inf, limit),
        ],
        options={"mip_rel_gap": gap, "time_limit": seconds},
    )


def _can_be_better(cost: np.ndarray, best: Choice) -> np.ndarray:
    """Which widths a choice better than the best may hold: `[L, W]`; keeps huge costs away from HiGHS."""
    least = cost.min(axis=1, keepdims=True)
    useful = cost - least <= (best.cost - least.sum()) * (1.0 + 1e-9)
    useful[np.arange(len(cost)), best.columns] = True
    return useful


def _round_significant(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissa, _SIGNIFICANT_BITS)), exponent - _SIGNIFICANT_BITS)


def _better(best: Choice, columns: np.ndarray, cost: np.ndarray) -> Choice:
    found = total(cost, columns)
    if found >= best.cost:
        return best
    return Choice(columns, found, min(best.bound, found))
