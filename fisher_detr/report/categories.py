"""Which categories lose: AP of every category in every arm."""

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from plotly import graph_objects

from fisher_detr.report.arms import ReportArm, reference
from fisher_detr.report.blocks import Cell, Chart, Section, Table
from fisher_detr.report.style import color_of, figure, marker_of, number, shown, signed, spec, symbol_of

_ROW = 24  # CSS pixels


@dataclasses.dataclass(frozen=True)
class CategoryRow:
    """One category.

    Attributes:
        name: of the category.
        objects: to be found in the evaluated images.
        sets: critical sets that it is in.
        values: AP in percent by arm; None: not measured, or nothing to find.
        loss: largest loss of an arm against the reference, in points; None: unknown.
    """

    name: str
    objects: int
    sets: tuple[str, ...]
    values: tuple[float | None, ...]
    loss: float | None


def category_rows(arms: Sequence[ReportArm]) -> list[CategoryRow]:
    """All categories, those that lose most first."""
    first, data = arms.index(reference(arms)), arms[0].evaluation
    rows = []
    for category in data["categories"]:
        values = tuple(arm.metric(category["metric"]) for arm in arms)
        before = values[first]
        losses = [before - x for i, x in enumerate(values) if i != first and None not in (x, before)]
        sets = tuple(name for name, ids in data["sets"].items() if category["id"] in ids)
        loss = max(losses, default=None)
        rows.append(CategoryRow(category["name"], category["objects"], sets, values, loss))
    return sorted(rows, key=lambda row: (row.loss is None, -(row.loss or 0.0)))


def categories(arms: Sequence[ReportArm]) -> Section:
    """A chart of all categories, and the numbers."""
    rows = category_rows(arms)
    chart = Chart(
        "categories",
        spec(_figure(arms, rows)),
        "AP of each category in every arm, the largest loss on top; in brackets the objects to be found.",
        max(280, _ROW * len(rows) + 110),
    )
    return Section("categories", "Which categories lose", _lead(arms, rows), [chart, _table(arms, rows)])


def draw_categories(axes: Axes, arms: Sequence[ReportArm]) -> None:
    """The chart for a file."""
    rows = [row for row in category_rows(arms) if row.loss is not None][::-1]
    for place, arm in enumerate(arms):
        axes.plot(
            [row.values[place] for row in rows],
            range(len(rows)),
            linestyle="",
            marker=marker_of(place),
            color=color_of(place),
            label=arm.name,
        )
    axes.hlines(
        range(len(rows)),
        [min(x for x in row.values if x is not None) for row in rows],
        [max(x for x in row.values if x is not None) for row in rows],
        color="0.8",
        zorder=0,
    )
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_xlabel("AP")
    axes.legend(frameon=False)


def _figure(arms: Sequence[ReportArm], rows: Sequence[CategoryRow]) -> graph_objects.Figure:
    labels = [shown(_label(row)) for row in rows]
    traces = [_span(rows, labels)]
    for place, arm in enumerate(arms):
        traces.append(
            graph_objects.Scatter(
                x=[row.values[place] for row in rows],
                y=labels,
                mode="markers",
                name=shown(arm.name),
                marker={"color": color_of(place), "symbol": symbol_of(place), "size": 10}
                | ({"line": {"width": 3, "color": color_of(place)}} if place == 0 else {}),
                hovertemplate="%{y}<br>AP %{x:.1f}",
            )
        )
    # The first on top, without the room that Plotly leaves at both ends.
    axes = {"yaxis": {"range": [len(rows) - 0.5, -0.5]}, "xaxis": {"title": {"text": "AP"}}}
    return figure(traces, axes)


def _span(rows: Sequence[CategoryRow], labels: Sequence[str]) -> graph_objects.Scatter:
    """A thin line from the lowest to the highest value of each category."""
    x: list[float | None] = []
    y: list[str | None] = []
    for row, label in zip(rows, labels, strict=True):
        if known := [value for value in row.values if value is not None]:
            x += [min(known), max(known), None]
            y += [label, label, None]
    line = {"color": "rgba(128,128,128,0.4)", "width": 2}
    return graph_objects.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _table(arms: Sequence[ReportArm], rows: Sequence[CategoryRow]) -> Table:
    first = arms.index(reference(arms))
    cells = [
        [
            Cell(row.name),
            Cell(", ".join(row.sets)),
            Cell(f"{row.objects:,}"),
            *(Cell(number(value), _change(row, i, first)) for i, value in enumerate(row.values)),
        ]
        for row in rows
    ]
    return Table(
        ["category", "sets", "objects", *(arm.name for arm in arms)], cells, "The numbers", collapsed=True
    )


def _change(row: CategoryRow, place: int, first: int) -> str:
    value, before = row.values[place], row.values[first]
    return "" if place == first or None in (value, before) else signed(value - before)


def _label(row: CategoryRow) -> str:
    return f"{row.name} ({row.objects:,})"


def _lead(arms: Sequence[ReportArm], rows: Sequence[CategoryRow]) -> str:
    known = [row for row in rows if row.loss is not None]
    if not known:
        return "Nothing to compare: one arm, or no category that two arms have values of."
    worst, least = known[0], known[-1]
    if worst.loss <= 0.0:
        return f"No category loses anything against {reference(arms).name}."
    return (
        f"In the arm that is hardest on it, {worst.name} has {signed(-worst.loss)} points against "
        f"{reference(arms).name}, {least.name} {signed(-least.loss)}: the most and the least of all. "
        "Those with few objects vary by chance as well."
    )
