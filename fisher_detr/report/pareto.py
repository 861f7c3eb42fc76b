"""How small a model may be: bytes against predicted and measured loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from plotly import graph_objects

from fisher_detr.report.arms import ReportArm
from fisher_detr.report.blocks import Block, Chart, Missing, Section
from fisher_detr.report.commands import Commands
from fisher_detr.report.style import GREY, color_of, figure, look_of, shown, spec

_LEAD = (
    "Plans of every size, each the best by the predicted damage. Predicted is what the sensitivities say of "
    "the errors of the weights; measured is the rise of the loss on images that neither plan nor calibration "
    "has seen, with activations quantized too. The axis is a logarithm: a rise that is not positive has no "
    "point."
)
Plans = Sequence[Mapping[str, Any]]


def pareto(arms: Sequence[ReportArm], plans: Plans | None, commands: Commands) -> Section:
    """The curve, and the arms on it."""
    title = "How small may it be?"
    if plans is None:
        return Section("pareto", title, _LEAD, [Missing("No pareto.json.", commands.pareto())])
    measured = [plan for plan in plans if "measured" in plan["meta"]]
    blocks: list[Block] = []
    if measured:
        text = "Predicted and measured rise of the loss of an image, with standard errors."
        blocks.append(Chart("pareto-measured", spec(_measured(measured)), text, 420))
    else:
        blocks.append(Missing("No plan of pareto.json was measured.", commands.pareto()))
    caption = "Predicted damage of the whole objective, which the plans minimise; stars: plans of the arms."
    blocks.append(Chart("pareto", spec(_curve(arms, plans)), caption, 380))
    return Section("pareto", title, _LEAD, blocks)


def draw_pareto(axes: Axes, plans: Plans) -> None:
    """For a file: measured and predicted rises, or the predicted damage alone."""
    measured = [plan for plan in plans if "measured" in plan["meta"]]
    axes.set_xlabel("kB of quantized weights")
    axes.set_yscale("log")
    if not measured:
        axes.plot([p["size_bytes"] / 1e3 for p in plans], [p["cost"] for p in plans], ".-", color=GREY)
        axes.set_ylabel("predicted damage")
        return
    for objective in measured[0]["meta"]["measured"]:
        size = [p["size_bytes"] / 1e3 for p in measured]
        found = [p["meta"]["measured"][objective] for p in measured]
        color, _, marker = _look(objective, measured)
        predicted = [p["meta"]["predicted"].get(objective, np.nan) for p in measured]
        axes.plot(size, predicted, "--", color=color)
        axes.errorbar(
            size,
            [x["rise"] for x in found],
            yerr=[x["standard_error"] or 0.0 for x in found],
            color=color,
            marker=marker,
            label=objective,
        )
    axes.set_ylabel("rise of the loss (dashed: predicted)")
    axes.legend(frameon=False)


def _look(objective: str, plans: Plans) -> tuple[str, str, str]:
    """The overall objective's, or one for each critical set: see `look_of`."""
    known = ["overall", *sorted(set(plans[0]["meta"]["measured"]) - {"overall"})]
    return look_of(known.index(objective))


def _measured(plans: Plans) -> graph_objects.Figure:
    size = [plan["size_bytes"] / 1e3 for plan in plans]
    made = []
    for objective in plans[0]["meta"]["measured"]:
        found = [plan["meta"]["measured"][objective] for plan in plans]
        color, symbol, _ = _look(objective, plans)
        made += [
            graph_objects.Scatter(
                x=size,
                y=[plan["meta"]["predicted"].get(objective) for plan in plans],
                name=f"{objective}, predicted",
                mode="lines",
                line={"color": color, "dash": "dash"},
                hovertemplate="%{x:,.0f} kB<br>predicted + %{y:.3g}",
            ),
            graph_objects.Scatter(
                x=size,
                y=[x["rise"] for x in found],
                error_y={
                    "type": "data",
                    "array": [x["standard_error"] or 0.0 for x in found],
                    "thickness": 1,
                },
                name=f"{objective}, measured",
                mode="lines+markers",
                line={"color": color},
                marker={"symbol": symbol, "size": 8},
                hovertemplate="%{x:,.0f} kB<br>measured + %{y:.3g}",
            ),
        ]
    return figure(made, _axes("rise of the loss"))


def _curve(arms: Sequence[ReportArm], plans: Plans) -> graph_objects.Figure:
    made = [
        graph_objects.Scatter(
            x=[plan["size_bytes"] / 1e3 for plan in plans],
            y=[plan["cost"] for plan in plans],
            name="best plans",
            mode="lines+markers",
            line={"color": GREY},
            marker={"size": 4},
            text=[_widths(plan["bits"]) for plan in plans],
            hovertemplate="%{x:,.0f} kB, %{text}<br>damage %{y:.3g}",
        )
    ]
    for place, arm in enumerate(arms):
        if arm.allocation and arm.allocation.meta.get("arm") == plans[0]["meta"].get("arm"):
            made.append(
                graph_objects.Scatter(
                    x=[arm.allocation.size_bytes / 1e3],
                    y=[arm.allocation.cost],
                    name=shown(arm.name),
                    mode="markers",
                    marker={"color": color_of(place), "size": 12, "symbol": "star"},
                    hovertemplate="%{x:,.0f} kB<br>damage %{y:.3g}",
                )
            )
    return figure(made, _axes("predicted damage"))


def _axes(title: str) -> dict[str, Any]:
    """A logarithm of the loss: a rise that is not positive, by chance or quantization's luck, is left out."""
    return {
        "xaxis": {"title": {"text": "kB of quantized weights"}},
        "yaxis": {"type": "log", "title": {"text": title}, "exponentformat": "power"},
    }


def _widths(bits: Mapping[str, int]) -> str:
    return f"{min(bits.values())} to {max(bits.values())} bits"
