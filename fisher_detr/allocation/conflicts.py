"""A first plan that holds all limits; or, where there is none, which limits conflict."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fisher_detr.allocation.constraints import Constraint, amount
from fisher_detr.allocation.problem import Problem, Program
from fisher_detr.allocation.restrictions import Restrictions
from fisher_detr.allocation.solver import find_feasible, solve

_NAMED = 3  # fixed layers and ties that a message lists
_LEAST_GAP = 1e-6  # of the least feasible limit that a message names

Item = Constraint | str  # a constraint, or the name of a field of Restrictions


def first_choice(problem: Problem, time_limit: float) -> np.ndarray:
    """A choice `[G]` within all limits; the cheapest uniform one where one holds them.

    Raises:
        ValueError: there is none, and which limits conflict; or the time was too short to tell.
    """
    start = find_feasible(problem.program, time_limit)
    if start is None:
        raise ValueError(_describe(problem, _conflict(problem, time_limit), time_limit))
    return start


def least_use(problem: Problem, constraint: Constraint, time_limit: float) -> np.ndarray:
    """The choice `[G]` that uses least of a constraint beside the other limits of a problem.

    These can be held. Where nothing else is limited it is exact, else to a millionth.
    """
    others = _program_of(problem, [item for item in problem.constraints if item is not constraint])
    only = _program_of(problem, [constraint])
    least = np.where(only.allowed, only.usages[0], np.inf).argmin(axis=1)
    if others.holds(least):
        return least
    start = find_feasible(others, time_limit)
    return solve(dataclasses.replace(others, costs=only.usages), start, _LEAST_GAP, time_limit).columns


def _conflict(problem: Problem, time_limit: float) -> list[Item]:
    """Limits and restrictions that no plan holds together, and of which none can be left out.

    Restrictions are left out first: what is impossible without them is not put down to them.
    """
    kept: list[Item] = [*(field.name for field in dataclasses.fields(Restrictions)), *problem.constraints]
    for item in [*kept]:
        rest = [other for other in kept if other is not item]
        if find_feasible(_reduced(problem, rest).program, time_limit) is None:
            kept = rest
    return kept


def _reduced(problem: Problem, items: Sequence[Item]) -> Problem:
    """The problem with only some of its limits and restrictions."""
    fields = {item: getattr(problem.restrictions, item) for item in items if isinstance(item, str)}
    limits = tuple(item for item in items if isinstance(item, Constraint))
    return dataclasses.replace(problem, constraints=limits, restrictions=Restrictions(**fields))


def _describe(problem: Problem, conflict: Sequence[Item], time_limit: float) -> str:
    reduced = _reduced(problem, conflict)
    feasible = [(limit, _feasible_limit(reduced, limit, time_limit)) for limit in reduced.constraints]
    if len(conflict) == 1:
        ((limit, (least, widths)),) = feasible
        return f"{limit} is too small: the smallest feasible one is {least} {limit.unit} ({widths})"
    listed = ", ".join(_name(problem.restrictions, item) for item in conflict)
    ways = " or ".join(f"{limit.name} to {least} {limit.unit}" for limit, (least, _) in feasible)
    return f"in conflict are {listed}: raise {ways}, or leave any one of them out"


def _feasible_limit(problem: Problem, constraint: Constraint, time_limit: float) -> tuple[str, str]:
    """The least limit beside the others, and the widths that hold it."""
    program = _program_of(problem, [constraint])
    columns = least_use(problem, constraint, time_limit)
    least, widths = float(program.used(columns)[0]), [problem.widths[c] for c in columns]
    narrow, wide = min(widths), max(widths)
    return amount(least), f"all at {narrow} bits" if narrow == wide else f"at {narrow} to {wide} bits"


def _program_of(problem: Problem, constraints: Sequence[Constraint]) -> Program:
    return dataclasses.replace(problem, constraints=tuple(constraints)).program


def _name(restrictions: Restrictions, item: Item) -> str:
    if isinstance(item, Constraint):
        return str(item)
    value = getattr(restrictions, item)
    if item == "fixed":
        return f"fixed widths ({_first([f'{name} at {bits}' for name, bits in value.items()])})"
    if item == "ties":
        return f"ties ({_first([' = '.join(tie) for tie in value])})"
    return f"{'minimum' if item == 'min_bits' else 'maximum'} of {value} bits for a layer"


def _first(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
