"""The table that comes first: what each arm keeps, and what it costs."""

import dataclasses
from collections.abc import Callable, Sequence

from fisher_detr.report.arms import ReportArm, reference
from fisher_detr.report.blocks import Cell, Section, Table
from fisher_detr.report.style import number, signed


@dataclasses.dataclass(frozen=True)
class _Column:
    """One measure of the arms.

    Attributes:
        title: heading.
        value: of an arm; None: unknown.
        digits: behind the point.
        is_cost: less of it is better, and a change is a factor.
    """

    title: str
    value: Callable[[ReportArm], float | None]
    digits: int
    is_cost: bool = False

    def change(self, found: float, before: float) -> str:
        """From the reference to an arm."""
        if self.is_cost:
            return f"×\u00a0{found / before:.2f}" if before else ""  # a space that is no place to break
        return signed(found - before, self.digits)


def headline(arms: Sequence[ReportArm]) -> Section:
    """Accuracy and cost of all arms."""
    columns = [*_accuracy(arms), *_cost(arms)]
    cells = [_cells(arms, column) for column in columns]
    rows = [[Cell(arm.name), *of_arm] for arm, of_arm in zip(arms, zip(*cells, strict=True), strict=True)]
    titles = ["arm", *(column.title.replace("_", " ", 1) for column in columns)]
    return Section(
        "arms", "What is kept, and what it costs", _lead(arms), [Table(titles, rows, _caption(arms))]
    )


def _accuracy(arms: Sequence[ReportArm]) -> list[_Column]:
    metrics = ["AP", *(name for x in arms[0].evaluation["sets"] for name in (f"APcrit_{x}",))]
    if all(arm.metric(name) is None for arm in arms for name in metrics[1:]):  # no logits: filtered AP only
        metrics = ["AP", *(f"AP_{name}" for name in arms[0].evaluation["sets"])]
    return [_Column(name, lambda arm, name=name: arm.metric(name), 1) for name in metrics]


def _cost(arms: Sequence[ReportArm]) -> list[_Column]:
    def in_units(key: str, unit: float) -> Callable[[ReportArm], float | None]:
        def value(arm: ReportArm) -> float | None:
            found = arm.of_coverage(key)
            return None if found is None else found / unit

        return value

    columns = [
        _Column("bits", lambda arm: 32.0 if arm.is_float else arm.of_coverage("average_bits"), 2, True),
        _Column("MB", in_units("total_bytes", 1e6), 2, True),
        _Column("10⁹ bit operations", in_units("bit_operations", 1e9), 1, True),
        _Column("ms", lambda arm: arm.latency, 1, True),
    ]
    return [column for column in columns if any(column.value(arm) is not None for arm in arms)]


def _cells(arms: Sequence[ReportArm], column: _Column) -> list[Cell]:
    """One for each arm; the best of those that are compared with the first stands out, if they differ."""
    first = reference(arms)
    before = column.value(first)
    shown = {arm.name: number(column.value(arm), column.digits) for arm in arms}
    others = [found for arm in arms if arm is not first and (found := column.value(arm)) is not None]
    best = number((min if column.is_cost else max)(others), column.digits) if others else None
    differ = len({number(found, column.digits) for found in others}) > 1
    cells = []
    for arm in arms:
        found = column.value(arm)
        compared = arm is not first and found is not None
        change = column.change(found, before) if compared and before is not None else ""
        cells.append(Cell(shown[arm.name], change, compared and differ and shown[arm.name] == best))
    return cells


def _lead(arms: Sequence[ReportArm]) -> str:
    data = arms[0].evaluation
    return (
        f"{data['num_images']:,} images of {data['dataset']}, {len(data['categories'])} categories. AP is "
        "over all of them; APcrit of a set is over its categories, with all others as one. Below each value "
        f"is its difference to {reference(arms).name}, in points, or its cost as a part of that one's; "
        "the best of the others stands out."
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
