"""Multiple-choice integer programs by HiGHS, made exact and independent of the unit of the cost.

HiGHS works with absolute tolerances: costs far from 1 are solved wrongly without a word, and a sum may exceed
its limit by a millionth. So it sees every cost in units of the best choice known (1e3), and again where a far
better one has turned up; and what breaks a limit, be it by one byte, is excluded before it is asked again.
Its presolve stays off: where choices lie within its tolerance of a limit, it calls one optimal that is not.
"""

import dataclasses
import time

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from fisher_detr.allocation.problem import Program, chosen

_REFERENCE_COST = 1e3  # of the best choice known, as HiGHS sees it
_ABSOLUTE_GAP = 1e-6  # at which HiGHS stops whatever it is asked for; SciPy cannot set it
_NEW_UNITS = 0.5  # solve again where the cost fell below this part of the old
_SIGNIFICANT_BITS = 30  # of the scaled costs (1e-9): the unit of the cost leaves no trace in their rounding
_MAX_SOLVES = 50
_INFEASIBLE = 2  # SciPy's status

Cover = np.ndarray  # [G, W] bool: of the rows that have an entry, one must take another column


@dataclasses.dataclass(frozen=True)
class Choice:
    """One column for each of G rows.

    Attributes:
        columns: index of the chosen column, `[G]`.
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


def solve(program: Program, start: np.ndarray, gap: float, time_limit: float, bound: float = 0.0) -> Choice:
    """Minimise the objective of a program.

    Args:
        program: costs, limits and allowed columns.
        start: a feasible choice `[G]`; the result is never worse.
        gap: relative optimality gap at which the search may end.
        time_limit: seconds; where it ends the search, the result depends on the speed of the machine.
        bound: known lower bound on the cost.

    Returns:
        The best choice found, and what was proven about it.
    """
    deadline = time.monotonic() + time_limit
    least = float(program.least(program.costs).sum(axis=-1).max())
    cost = program.objective(start)
    best = Choice(start, cost, min(max(least, bound), cost))
    covers: list[Cover] = []
    for _ in range(_MAX_SOLVES):
        seconds = deadline - time.monotonic()
        if best.gap <= gap or seconds <= 0.0:
            break
        result = _solve_scaled(program, best, covers, gap, seconds)
        best = _with_bound(best, result)
        if result.x is None:
            break
        columns = _columns(result, program)
        if not program.holds(columns):
            covers.append(_cover(program, columns))
            continue
        before, best = best, _better(best, columns, program)
        if best.cost >= _NEW_UNITS * before.cost:
            break
    return best


def find_feasible(program: Program, time_limit: float) -> np.ndarray | None:
    """Any choice `[G]` within all limits, or None where there is none.

    Of the choices with one column throughout it is the one of the least cost, where one of them holds.

    Raises:
        ValueError: the time was too short to tell.
    """
    if (program.least(program.usages).sum(axis=-1) > program.limits).any():
        return None
    uniform = [columns for columns in program.uniform_choices() if program.holds(columns)]
    if uniform:
        return min(uniform, key=program.objective)
    deadline = time.monotonic() + time_limit
    covers: list[Cover] = []
    while (seconds := deadline - time.monotonic()) > 0.0:
        result = _solve_scaled(program, None, covers, 0.0, seconds)
        if result.status == _INFEASIBLE:
            return None
        if result.x is None:
            break
        columns = _columns(result, program)
        if program.holds(columns):
            return columns
        covers.append(_cover(program, columns))
    raise ValueError(
        f"no plan within the limits was found in {time_limit:g} seconds, nor that there is none: "
        "raise the time limit"
    )


def _solve_scaled(
    program: Program, best: Choice | None, covers: list[Cover], gap: float, seconds: float
) -> OptimizeResult:
    """One call of HiGHS in units of the best choice known; where none is known, for any choice."""
    useful = _useful(program, best)
    costs = _scaled_costs(program, useful, best)
    rows, limits = _scaled_limits(program, useful, covers)
    objective, rows, limits = _largest_of(costs, rows, limits)
    num_rows, num_choices, added = len(useful), useful.size, len(objective) - useful.size
    row_of = np.repeat(np.arange(num_rows), useful.shape[1])
    one_column = sparse.csr_array(
        (np.ones(num_choices), (row_of, np.arange(num_choices))), shape=(num_rows, len(objective))
    )
    return milp(
        objective,
        integrality=np.append(np.ones(num_choices), np.zeros(added)),
        bounds=Bounds(0.0, np.append(useful.ravel().astype(float), np.full(added, np.inf))),
        constraints=LinearConstraint(
            sparse.vstack([one_column, sparse.csr_array(rows)]),
            np.append(np.ones(num_rows), np.full(len(limits), -np.inf)),
            np.append(np.ones(num_rows), limits),
        ),
        options={"mip_rel_gap": gap, "time_limit": seconds, "presolve": False},
    )


def _useful(program: Program, best: Choice | None) -> np.ndarray:
    """Which columns a choice that is feasible, and better than the best, may hold: `[G, W]`.

    Keeps huge costs and usages away from HiGHS.
    """
    useful = program.allowed.copy()
    for usage, limit in zip(program.usages, program.limits, strict=True):
        least = program.least(usage)
        useful &= usage - least[:, None] <= (limit - least.sum()) * (1.0 + 1e-9)
    if best is None:
        return useful
    for cost in program.costs:
        least = program.least(cost)
        useful &= cost - least[:, None] <= (best.cost - least.sum()) * (1.0 + 1e-9)
    useful[np.arange(len(useful)), best.columns] = True
    return useful


def _scaled_costs(program: Program, useful: np.ndarray, best: Choice | None) -> np.ndarray:
    """Costs `[S, G W]` in units of the best choice known; nothing costs anything where none is known."""
    if best is None:
        return np.zeros((1, useful.size))
    scaled = np.where(useful, program.costs, 0.0) / best.cost * _REFERENCE_COST
    return _round_significant(scaled).reshape(len(scaled), -1)


def _scaled_limits(
    program: Program, useful: np.ndarray, covers: list[Cover]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows `[K + C, G W]` and their limits: K limited sums, and C sets of steps too many together."""
    rows, limits = [], []
    for usage, limit in zip(program.usages, program.limits, strict=True):
        least = program.least(usage)
        extra, room = _scaled_row(np.where(useful, usage - least[:, None], 0.0), limit - least.sum())
        rows.append(extra.ravel())
        limits.append(room)
    for cover in covers:
        rows.append(cover.ravel())
        limits.append(cover.any(axis=1).sum() - 1.0)
    return np.array(rows, dtype=np.float64).reshape(len(rows), useful.size), np.array(limits)


def _scaled_row(extra: np.ndarray, room: float) -> tuple[np.ndarray, float]:
    """A limited sum in units of its room, as HiGHS scales rows itself: then its steps agree on what holds.

    Sums of whole numbers are counted in their common divisor, and their limit lies half a unit above the last
    sum that holds, so that none is lost to a tolerance.
    """
    whole = bool((extra == np.floor(extra)).all())
    unit = float(np.gcd.reduce(extra.astype(np.int64), axis=None)) if whole else 0.0
    if unit > 0.0:
        extra, room = extra / unit, np.floor(room / unit) + 0.5
    scale = 1.0 / room if room > 0.0 else 1.0
    return extra * scale, room * scale


def _cover(program: Program, columns: np.ndarray) -> Cover:
    """Why a choice breaks a limit: columns, of as few rows as possible, that no choice may have together."""
    index = np.argmax(program.used(columns) > program.limits)
    usage, least = program.usages[index], program.least(program.usages[index])
    extra = chosen(usage, columns) - least
    largest = np.argsort(-extra, kind="stable")
    above = np.cumsum(extra[largest]) > program.limits[index] - least.sum()
    rows = largest[: np.argmax(above) + 1] if above.any() else largest
    cover = np.zeros(usage.shape, dtype=bool)
    cover[rows] = usage[rows] >= chosen(usage, columns)[rows, None]
    return cover


def _largest_of(
    costs: np.ndarray, rows: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, rows and limits; of several sums of costs, the largest becomes one more variable."""
    if len(costs) == 1:
        return costs[0], rows, limits
    rows = np.block([[rows, np.zeros((len(rows), 1))], [costs, -np.ones((len(costs), 1))]])
    return np.append(np.zeros(costs.shape[1]), 1.0), rows, np.append(limits, np.zeros(len(costs)))


def _with_bound(best: Choice, result: OptimizeResult) -> Choice:
    if result.mip_dual_bound is None:
        return best
    bound = (result.mip_dual_bound - _ABSOLUTE_GAP) * best.cost / _REFERENCE_COST
    return dataclasses.replace(best, bound=min(max(best.bound, bound), best.cost))


def _columns(result: OptimizeResult, program: Program) -> np.ndarray:
    shape = program.allowed.shape
    return result.x[: program.allowed.size].reshape(shape).argmax(axis=1)


def _round_significant(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissa, _SIGNIFICANT_BITS)), exponent - _SIGNIFICANT_BITS)


def _better(best: Choice, columns: np.ndarray, program: Program) -> Choice:
    found = program.objective(columns)
    if found >= best.cost:
        return best
    return Choice(columns, found, min(best.bound, found))
