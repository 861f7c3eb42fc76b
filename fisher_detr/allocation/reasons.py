"""Why every layer has the width that it has, as plain JSON and as a table for the console."""

from typing import Any

import numpy as np

from fisher_detr.allocation.constraints import amount, byte_sizes
from fisher_detr.allocation.problem import Problem, chosen
from fisher_detr.structures import BitAllocation

_FIXED, _WIDEST, _NO_GAIN = "fixed", "widest", "no gain"


def plan_reasons(problem: Problem, columns: np.ndarray) -> dict[str, Any]:
    """What a plan predicts, uses and rests on, as plain JSON.

    Args:
        problem: what was solved.
        columns: the choice, `[G]`.

    Returns:
        "aggregate"; "prediction", the cost by critical set; "constraints", a list with "name", "unit",
        "limit" and "used"; and "layers", see `layer_reasons`.
    """
    costs, of_layer = problem.costs, problem.layer_columns(columns)
    totals = chosen(costs.values, of_layer).sum(axis=1)
    used = problem.program.used(columns)
    return {
        "aggregate": str(costs.aggregate),
        "prediction": dict(zip(costs.names, totals.tolist(), strict=True)),
        "constraints": [
            {"name": c.name, "unit": c.unit, "limit": float(c.limit), "used": float(use)}
            for c, use in zip(problem.constraints, used, strict=True)
        ],
        "layers": layer_reasons(problem, columns),
    }


def layer_reasons(problem: Problem, columns: np.ndarray) -> list[dict[str, Any]]:
    """The reasons of each layer, in the order of the layers.

    Args:
        problem: what was solved.
        columns: the choice, `[G]`.

    Returns:
        For each layer "name" and "bits"; "sensitivity", its cost at these bits, by critical set; "narrower",
        the next smaller candidate width with its "bits", its "rise" of the cost by set and the "bytes" that
        it saves, or None at the smallest; "tied", the other layers that would change with it; and "held_by":
        the names of the constraints that the next larger width would break, or "fixed", "widest", or
        "no gain" where the larger width would cost more.
    """
    sizes = byte_sizes(problem.layers, problem.widths)
    records: list[dict[str, Any]] = [{}] * len(problem.layers)
    for row, (group, column) in enumerate(zip(problem.groups, columns.tolist(), strict=True)):
        held_by = _held_by(problem, columns, row)
        for index in group:
            values = problem.costs.values[:, index]  # [S, W]
            records[index] = {
                "name": problem.layers[index].name,
                "bits": int(problem.widths[column]),
                "sensitivity": _by_set(problem, values[:, column]),
                "narrower": _narrower(problem, values, sizes[index], column),
                "tied": [problem.layers[other].name for other in group if other != index],
                "held_by": held_by,
            }
    return records


def format_plan(plan: BitAllocation) -> str:
    """A plan as a table, one line for each layer, and below it what it uses and predicts.

    A plan that was not solved for (a uniform one, or one of an older file) has only its widths.
    """
    layers = plan.meta.get("layers") or [{"name": name, "bits": bits} for name, bits in plan.bits.items()]
    sets = list(plan.meta.get("prediction", {}))
    header = ["layer", "bits"]
    if sets:
        header += [*_titles("cost", sets), *_titles("one step less", sets), "bytes saved", "held by"]
    rows = [header] + [_cells(layer, sets) for layer in layers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([*(_line(row, widths) for row in rows), *_summary(plan)])


def _held_by(problem: Problem, columns: np.ndarray, row: int) -> list[str]:
    """What keeps a row from its next larger width."""
    allowed = np.flatnonzero(problem.program.allowed[row])
    if any(problem.names[index] in problem.restrictions.fixed for index in problem.groups[row]):
        return [_FIXED]
    if columns[row] == allowed[-1]:
        return [_WIDEST]
    wider = columns.copy()
    wider[row] = allowed[allowed > columns[row]][0]
    over = problem.program.used(wider) > problem.program.limits
    broken = [c.name for c, is_over in zip(problem.constraints, over, strict=True) if is_over]
    return broken or [_NO_GAIN]


def _narrower(problem: Problem, values: np.ndarray, sizes: np.ndarray, column: int) -> dict[str, Any] | None:
    if column == 0:
        return None
    return {
        "bits": int(problem.widths[column - 1]),
        "rise": _by_set(problem, values[:, column - 1] - values[:, column]),
        "bytes": int(sizes[column] - sizes[column - 1]),
    }


def _by_set(problem: Problem, values: np.ndarray) -> dict[str, float]:
    return dict(zip(problem.costs.names, values.tolist(), strict=True))


def _titles(what: str, sets: list[str]) -> list[str]:
    return [what] if len(sets) == 1 else [f"{what} ({name})" for name in sets]


def _cells(layer: dict[str, Any], sets: list[str]) -> list[str]:
    cells = [layer["name"], str(layer["bits"])]
    if not sets:
        return cells
    narrower = layer["narrower"]
    held = ", ".join(layer["held_by"])
    if layer["tied"]:
        held += f"; tied to {', '.join(layer['tied'])}"
    return [
        *cells,
        *(f"{layer['sensitivity'][name]:.3g}" for name in sets),
        *(f"{narrower['rise'][name]:+.3g}" if narrower else "-" for name in sets),
        str(narrower["bytes"]) if narrower else "-",
        held,
    ]


def _line(cells: list[str], widths: list[int]) -> str:
    """Names and reasons to the left, numbers to the right."""
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    if len(cells) > 2:
        numbers[-1] = cells[-1]
    return "  ".join([cells[0].ljust(widths[0]), *numbers]).rstrip()


def _summary(plan: BitAllocation) -> list[str]:
    lines = [f"size: {plan.size_bytes} bytes"]
    for limit in plan.meta.get("constraints", []):
        lines.append(f"{limit['name']}: {amount(limit['used'])} of {amount(limit['limit'])} {limit['unit']}")
    prediction = plan.meta.get("prediction", {})
    for title, cost in zip(_titles("predicted cost", [*prediction]), prediction.values(), strict=True):
        lines.append(f"{title}: {cost:.4g}")
    if "gap" in plan.meta:
        lines.append(f"proven to be within {plan.meta['gap']:.2g} of the optimum")
    return lines
