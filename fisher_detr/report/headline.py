"""The table that comes first: what each arm keeps, and what it costs."""

from collections.abc import Callable, Sequence

from fisher_detr.report.arms import ReportArm, reference
from fisher_detr.report.blocks import Cell, Section, Table
from fisher_detr.report.style import number, signed

Column = tuple[str, Callable[[ReportArm], float | None], int]


def headline(arms: Sequence[ReportArm]) -> Section:
    """Accuracy and cost of all arms."""
    first, accuracy, cost = reference(arms), _accuracy(arms), _cost(arms)
    best = {title: _best(arms, value) for title, value, _ in accuracy}
    rows = [
        [
            Cell(arm.name),
            *(_accuracy_cell(arm, first, column, best[column[0]]) for column in accuracy),
            *(Cell(number(value(arm), digits)) for _, value, digits in cost),
        ]
        for arm in arms
    ]
    titles = ["arm", *(title.replace("_", " ", 1) for title, _, _ in (*accuracy, *cost))]
    return Section(
        "arms", "What is kept, and what it costs", _lead(arms), [Table(titles, rows, _caption(arms))]
    )


def _accuracy(arms: Sequence[ReportArm]) -> list[Column]:
    metrics = ["AP", *(name for x in arms[0].evaluation["sets"] for name in (f"APcrit_{x}",))]
    if all(arm.metric(name) is None for arm in arms for name in metrics[1:]):  # no logits: filtered AP only
        metrics = ["AP", *(f"AP_{name}" for name in arms[0].evaluation["sets"])]
    return [(name, lambda arm, name=name: arm.metric(name), 1) for name in metrics]


def _cost(arms: Sequence[ReportArm]) -> list[Column]:
    def in_units(key: str, unit: float) -> Callable[[ReportArm], float | None]:
        def value(arm: ReportArm) -> float | None:
            found = arm.of_coverage(key)
            return None if found is None else found / unit

        return value

    columns: list[Column] = [
        ("bits", lambda arm: 32.0 if arm.is_float else arm.of_coverage("average_bits"), 2),
        ("MB", in_units("total_bytes", 1e6), 2),
        ("10⁹ bit operations", in_units("bit_operations", 1e9), 1),
        ("ms", lambda arm: arm.latency, 1),
    ]
    return [column for column in columns if any(column[1](arm) is not None for arm in arms)]


def _accuracy_cell(arm: ReportArm, first: ReportArm, column: Column, best: float | None) -> Cell:
    _, value, digits = column
    found, before = value(arm), value(first)
    change = None if arm is first or found is None or before is None else found - before
    return Cell(
        number(found, digits),
        signed(change, digits),
        arm is not first and found is not None and found == best,
    )


def _best(arms: Sequence[ReportArm], value: Callable[[ReportArm], float | None]) -> float | None:
    found = [value(arm) for arm in arms if arm is not reference(arms)]
    return max((x for x in found if x is not None), default=None)


def _lead(arms: Sequence[ReportArm]) -> str:
    data = arms[0].evaluation
    return (
        f"{data['num_images']:,} images of {data['dataset']}, {len(data['categories'])} categories. AP is "
        "over all of them; APcrit of a set is over its categories, with all others as one. Below each value "
        f"is its difference to {reference(arms).name}, in points; the best of the others stands out."
    )


def _caption(arms: Sequence[ReportArm]) -> str:
    sizes = {tuple(arm.of_coverage("traced_size") or ()) for arm in arms if arm.coverage}
    parts = ["MB: all parameters, quantized ones packed with their scales."]
    if len(sizes) == 1 and (size := sizes.pop()):
        parts.append(
            "Bit operations: multiply-accumulates times the bits of both factors, of an image of "
            f"{size[1]} x {size[0]} pixels."
        )
    if any(arm.latency is not None for arm in arms):
        parts.append("ms: of one image, as measured.")
    return " ".join(parts)
