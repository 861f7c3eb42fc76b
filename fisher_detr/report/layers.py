"""Which layers are to blame, and what the plans did about it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from plotly import graph_objects
from plotly.subplots import make_subplots

from fisher_detr.report.arms import ReportArm
from fisher_detr.report.blocks import Block, Cell, Chart, Missing, Section, Table
from fisher_detr.report.commands import Commands
from fisher_detr.report.layer_shares import LayerShares, find_shares, layer_names
from fisher_detr.report.style import GREY, color_of, figure, line_style_of, look_of, number, shown, spec
from fisher_detr.structures import MAX_BITS, MIN_BITS

_LEAST = 1e-9  # part of the damage below which there is rounding, or nothing, which has no logarithm
_BARS = 6  # plans whose widths can be told apart as bars beside each other
_LISTED = 8  # layers on which the objectives disagree


def layers(arms: Sequence[ReportArm], commands: Commands) -> Section:
    """Widths, sensitivities and sizes along the network."""
    planned = [arm for arm in arms if arm.allocation]
    shares = find_shares(arms)
    blocks: list[Block] = []
    absent = [
        name for name, found in (("allocation.json", planned), ("sensitivity.json", shares)) if not found
    ]
    if planned:
        height = sum(_heights(planned, shares)) + 80
        blocks.append(
            Chart("layers", spec(_figure(arms, planned, shares)), _caption(shares, len(planned)), height)
        )
    if absent:
        blocks.append(Missing(f"No arm has {' or '.join(absent)}.", commands.quantization()))
    if shares and shares.critical:
        blocks.append(_disagreement(shares, planned if len(planned) <= _BARS else []))
    return Section("layers", "Which layers are to blame", _LEAD, blocks)


_LEAD = (
    "Layers in the order of the network, from the image to the detections. What a layer's sensitivity is "
    "depends on the objective: a layer that hardly matters overall may matter to the critical categories."
)


def drawn_heights(arms: Sequence[ReportArm]) -> tuple[float, float]:
    """Of the two charts for a file, in inches: a line of a map needs room for the plan's name."""
    plans = sum(arm.allocation is not None for arm in arms)
    return (0.2 * plans if plans > _BARS else 2.5), 2.5


def draw_layers(axes: Sequence[Axes], arms: Sequence[ReportArm]) -> None:
    """The chart for a file: widths on the first axes, sensitivities on the second."""
    shares = find_shares(arms)
    _draw_widths(axes[0], arms, layer_names(arms))
    if shares:
        for place, (label, values) in enumerate(shares.objectives.items()):
            color, _, marker = look_of(place)
            known = np.where(values > _LEAST, values, np.nan)
            axes[1].semilogy(known, "-", marker=marker, markersize=4, color=color, label=label)
        axes[1].set_ylabel(f"part of the damage at {shares.bits} bits")
        axes[1].legend(frameon=False)
    axes[-1].set_xlabel("layer")


def _draw_widths(axes: Axes, arms: Sequence[ReportArm], names: Sequence[str]) -> None:
    planned = {place: arm for place, arm in enumerate(arms) if arm.allocation}
    bits = [[arm.allocation.bits.get(name, np.nan) for name in names] for arm in planned.values()]
    if len(planned) > _BARS:
        drawn = axes.imshow(bits, "cividis", aspect="auto", vmin=MIN_BITS, vmax=MAX_BITS)
        axes.set_yticks(range(len(planned)), [arm.name for arm in planned.values()])
        axes.figure.colorbar(drawn, ax=axes, label="bits")
        return
    for (place, arm), widths in zip(planned.items(), bits, strict=True):
        look = {"color": color_of(place), "linestyle": line_style_of(place), "label": arm.name}
        axes.step(range(len(widths)), widths, where="mid", **look)
    axes.set_ylabel("bits")
    axes.legend(frameon=False)


def _figure(
    arms: Sequence[ReportArm], planned: Sequence[ReportArm], shares: LayerShares | None
) -> graph_objects.Figure:
    names, heights = layer_names(arms), _heights(planned, shares)
    made = make_subplots(len(heights), 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
    if len(planned) > _BARS:
        made.add_trace(_map(planned, names, heights[0] / sum(heights)), 1, 1)
        made.update_yaxes(autorange="reversed", row=1)
    else:
        for arm in planned:
            made.add_trace(_widths(arm, names, color_of(list(arms).index(arm))), 1, 1)
        made.update_yaxes(title_text="bits", dtick=1, rangemode="tozero", row=1)
    if shares:
        for trace in _sensitivities(shares):
            made.add_trace(trace, 2, 1)
        made.add_trace(_sizes(shares), 3, 1)
        made.update_yaxes(type="log", title_text="damage", exponentformat="power", nticks=4, row=2)
        made.update_yaxes(title_text="size", tickformat=".0%", row=3)
    made.update_xaxes(showticklabels=False, showgrid=False)
    _mark_parts(made, names)
    return restyled(made)


def restyled(made: graph_objects.Figure) -> graph_objects.Figure:
    """A figure of subplots in the style of `figure`."""
    layout = figure([]).layout
    for key in ("template", "paper_bgcolor", "plot_bgcolor", "margin", "legend", "hoverlabel"):
        made.layout[key] = layout[key]
    made.update_layout(legend={"y": 1.06})
    made.update_xaxes(automargin=True, zeroline=False)
    made.update_yaxes(automargin=True, zeroline=False)
    return made


def _widths(arm: ReportArm, names: Sequence[str], color: str) -> graph_objects.Bar:
    return graph_objects.Bar(
        x=list(range(len(names))),
        y=[arm.allocation.bits.get(name) for name in names],
        name=shown(arm.name),
        marker={"color": color},
        customdata=list(names),
        hovertemplate="%{customdata}<br>%{y} bits",
    )


def _map(planned: Sequence[ReportArm], names: Sequence[str], part: float) -> graph_objects.Heatmap:
    """Widths of many plans, a line each; `part` is that of the figure's height."""
    return graph_objects.Heatmap(
        z=[[arm.allocation.bits.get(name) for name in names] for arm in planned],
        y=[shown(arm.name) for arm in planned],
        customdata=[list(names)] * len(planned),
        hovertemplate="%{y}<br>%{customdata}<br>%{z} bits<extra></extra>",
        colorscale="Cividis",
        zmin=MIN_BITS,
        zmax=MAX_BITS,
        xgap=1,
        ygap=1,
        colorbar={"title": "bits", "dtick": 1, "thickness": 12, "len": part, "y": 1, "yanchor": "top"},
    )


def _heights(planned: Sequence[ReportArm], shares: LayerShares | None) -> list[int]:
    """Of the rows of the figure, in CSS pixels."""
    first = 22 * len(planned) if len(planned) > _BARS else 180 if shares else 240
    return [first, 180, 180] if shares else [first]


def _sensitivities(shares: LayerShares) -> list[graph_objects.Scatter]:
    looks = [look_of(place) for place in range(len(shares.objectives))]
    return [
        graph_objects.Scatter(
            x=list(range(len(values))),
            y=[value if value > _LEAST else None for value in values.tolist()],
            name=shown(name),
            mode="lines+markers",
            line={"color": color, "width": 1.5},
            marker={"symbol": symbol, "size": 6},
            customdata=list(shares.names),
            hovertemplate="%{customdata}<br>%{y:.2%} of the damage",
        )
        for (name, values), (color, symbol, _) in zip(shares.objectives.items(), looks, strict=True)
    ]


def _sizes(shares: LayerShares) -> graph_objects.Bar:
    return graph_objects.Bar(
        x=list(range(len(shares.size))),
        y=shares.size.tolist(),
        name="size",
        marker={"color": GREY},
        customdata=list(shares.names),
        hovertemplate="%{customdata}<br>%{y:.1%} of the weights",
        showlegend=False,
    )


def _mark_parts(made: graph_objects.Figure, names: Sequence[str]) -> None:
    """A line where a part of the network ends, with the part's name at the bottom."""
    parts = [".".join(name.split(".")[: 2 if name.startswith("transformer") else 1]) for name in names]
    starts = [i for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
        if start:
            made.add_vline(start - 0.5, line={"color": "rgba(128,128,128,0.5)", "width": 1, "dash": "dot"})
        if end - start > len(parts) / 12:
            middle = (start + end - 1) / 2
            label = parts[start].removeprefix("transformer.")
            place = {"x": middle, "y": 0, "yref": "paper", "yanchor": "top", "yshift": -4}
            made.add_annotation(**place, text=label, showarrow=False)


def _disagreement(shares: LayerShares, planned: Sequence[ReportArm]) -> Table:
    apart = np.max([np.abs(values - shares.overall) for values in shares.critical.values()], axis=0)
    order = np.argsort(-apart, kind="stable")[:_LISTED]
    rows = [
        [
            Cell(shares.names[i]),
            *(Cell(f"{values[i]:.1%}") for values in shares.objectives.values()),
            Cell(f"{shares.size[i]:.1%}"),
            *(Cell(number(arm.allocation.bits.get(shares.names[i]), 0)) for arm in planned),
        ]
        for i in order
    ]
    titles = ["layer", *shares.objectives, "size", *(f"bits, {arm.name}" for arm in planned)]
    caption = f"Where the objectives disagree most: parts of the predicted damage at {shares.bits} bits"
    return Table(titles, rows, caption)


def _caption(shares: LayerShares | None, plans: int) -> str:
    text = f"Width of every layer in each plan{' (a click on a name hides it)' if plans <= _BARS else ''}."
    if shares:
        text += (
            f" Below, the part of the predicted damage at {shares.bits} bits that each layer has, and its "
            "part of the weights."
        )
    return text
