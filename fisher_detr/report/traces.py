"""The paper's explanation: a category loses by quantization as its Fisher information is large."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from plotly import graph_objects
from scipy.stats import rankdata, spearmanr

from fisher_detr.report.arms import ReportArm, reference
from fisher_detr.report.blocks import Cell, Chart, Missing, Section, Table
from fisher_detr.report.commands import Commands
from fisher_detr.report.style import color_of, figure, number, shown, spec, symbol_of

_RESAMPLES = 2000
_LABELLED = 30  # points with their names beside them


@dataclasses.dataclass(frozen=True)
class TracePoint:
    """A category or a critical set.

    Attributes:
        name: of it.
        is_set: whether it is a critical set.
        trace: of its Fisher information.
        error: standard error of the trace; None: unknown.
        losses: AP (of a set APcrit) lost by arm, in points; None: unknown.
    """

    name: str
    is_set: bool
    trace: float
    error: float | None
    losses: tuple[float | None, ...]


def trace_points(arms: Sequence[ReportArm], traces: Mapping[str, Any]) -> list[TracePoint]:
    """Traces and losses of all categories and critical sets that both know."""
    data = arms[0].evaluation
    metrics = {("category", (x["id"],)): (x["metric"], x["name"]) for x in data["categories"]}
    metrics |= {("set", tuple(ids)): (f"APcrit_{name}", name) for name, ids in data["sets"].items()}
    points = []
    for found in traces["objectives"]:
        key = found["kind"], tuple(found["categories"])
        if key in metrics:
            metric, name = metrics[key]
            losses = tuple(_lost(arm, reference(arms), metric) for arm in arms)
            points.append(TracePoint(name, key[0] == "set", found["trace"], found["standard_error"], losses))
    return points


def traces(arms: Sequence[ReportArm], content: Mapping[str, Any] | None, commands: Commands) -> Section:
    """A scatter of trace against loss, with rank correlations."""
    title = "Does the Fisher information explain it?"
    if content is None:
        return Section("traces", title, _LEAD, [Missing("No traces.json.", commands.traces())])
    points = trace_points(arms, content)
    if not points:
        text = "The categories of traces.json are not those that were evaluated."
        return Section("traces", title, _LEAD, [Missing(text, commands.traces())])
    compared = _compared(arms)
    chart = Chart(
        "traces",
        spec(_figure(compared, points)),
        f"Fisher trace of {content['num_images']} images with standard errors, against what is lost. "
        "Diamonds: critical sets. A click on a name shows or hides an arm.",
        480,
    )
    return Section("traces", title, _LEAD, [chart, _table(compared, points), _numbers(compared, points)])


_LEAD = (
    "The method predicts that a category's loss under quantization grows with the trace of its Fisher "
    "information. If that holds here, points rise from left to right, and the rank correlation is near 1."
)


def rank_correlation(
    points: Sequence[TracePoint], place: int, seed: int = 0
) -> tuple[float, float, float] | None:
    """Spearman's correlation of trace and loss over categories, with a 95 % bootstrap interval.

    Args:
        points: critical sets among them do not count: they share their categories.
        place: of the arm.
        seed: of the resamples.

    Returns:
        correlation, lower and upper end; None for fewer than 4 categories, or where all lose the same.
    """
    pairs = np.array(
        [(p.trace, p.losses[place]) for p in points if not p.is_set and p.losses[place] is not None]
    )
    if len(pairs) < 4 or (pairs == pairs[0]).all(axis=0).any():
        return None
    rng = np.random.default_rng(seed)
    drawn = pairs[rng.integers(len(pairs), size=(_RESAMPLES, len(pairs)))]  # [R, N, 2]
    ranks = rankdata(drawn, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(axis=1).prod(axis=1))  # 0 where a resample has one value only
    found = (ranks.prod(axis=2).sum(axis=1) / np.where(lengths, lengths, np.nan))[lengths > 0]
    low, high = np.percentile(found, (2.5, 97.5))
    return float(spearmanr(*pairs.T).statistic), float(low), float(high)


def draw_traces(axes: Axes, arms: Sequence[ReportArm], content: Mapping[str, Any]) -> None:
    """The chart for a file: the first quantized arm."""
    points = trace_points(arms, content)
    for place, arm in _compared(arms)[:1]:
        known = [p for p in points if p.losses[place] is not None and not p.is_set]
        axes.errorbar(
            [p.trace for p in known],
            [p.losses[place] for p in known],
            xerr=[p.error or 0.0 for p in known],
            linestyle="",
            marker="o",
            color=color_of(place),
        )
        for point in known:
            axes.annotate(
                point.name,
                (point.trace, point.losses[place]),
                fontsize=7,
                xytext=(3, 3),
                textcoords="offset points",
            )
        axes.set_ylabel(f"AP lost by {arm.name}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Fisher trace of the category")


def _compared(arms: Sequence[ReportArm]) -> list[tuple[int, ReportArm]]:
    return [(place, arm) for place, arm in enumerate(arms) if arm is not reference(arms)]


def _lost(arm: ReportArm, first: ReportArm, metric: str) -> float | None:
    after, before = arm.metric(metric), first.metric(metric)
    return None if after is None or before is None else before - after


def _figure(compared: Sequence[tuple[int, ReportArm]], points: Sequence[TracePoint]) -> graph_objects.Figure:
    made = [
        _scatter(arm.name, place, [p for p in points if p.is_set == is_set], number_of > 0, is_set)
        for number_of, (place, arm) in enumerate(compared)
        for is_set in (False, True)
    ]
    axes = {
        "xaxis": {"type": "log", "title": {"text": "Fisher trace"}},
        "yaxis": {"title": {"text": "points lost"}},
    }
    return figure(made, axes)


def _scatter(
    name: str, place: int, points: Sequence[TracePoint], hidden: bool, is_set: bool
) -> graph_objects.Scatter:
    return graph_objects.Scatter(
        x=[p.trace for p in points],
        y=[p.losses[place] for p in points],
        error_x={"type": "data", "array": [p.error or 0.0 for p in points], "thickness": 1, "width": 0},
        text=[shown(p.name) for p in points],
        customdata=[p.error for p in points],
        mode="markers+text" if len(points) <= _LABELLED else "markers",
        textposition="top center",
        textfont={"size": 10},
        name=shown(name),
        legendgroup=name,
        showlegend=not is_set,
        visible="legendonly" if hidden else True,
        marker={
            "color": color_of(place),
            "size": 11 if is_set else 9,
            "symbol": "diamond-open" if is_set else symbol_of(place),
        },
        hovertemplate="%{text}<br>trace %{x:.3g} ± %{customdata:.2g}<br>%{y:.1f} points lost",
    )


def _table(compared: Sequence[tuple[int, ReportArm]], points: Sequence[TracePoint]) -> Table:
    rows = []
    for place, arm in compared:
        found = rank_correlation(points, place)
        values = ["–", ""] if found is None else [f"{found[0]:.2f}", f"{found[1]:.2f} to {found[2]:.2f}"]
        rows.append([Cell(arm.name), *(Cell(value.replace("-", "−")) for value in values)])
    caption = "Spearman's correlation over the categories, intervals by resampling them"
    return Table(["arm", "rank correlation", "95 %"], rows, caption)


def _numbers(compared: Sequence[tuple[int, ReportArm]], points: Sequence[TracePoint]) -> Table:
    rows = [
        [
            Cell(f"{point.name} (set)" if point.is_set else point.name),
            Cell(f"{point.trace:.4g}", f"± {point.error:.2g}" if point.error else ""),
            *(Cell(number(point.losses[place])) for place, _ in compared),
        ]
        for point in sorted(points, key=lambda point: -point.trace)
    ]
    titles = ["category", "trace", *(f"lost by {arm.name}" for _, arm in compared)]
    return Table(titles, rows, "The numbers", collapsed=True)
