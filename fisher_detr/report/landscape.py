"""The loss around the weights of each model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from plotly import graph_objects
from plotly.subplots import make_subplots

from fisher_detr.report.blocks import Block, Cell, Chart, Missing, Section, Table
from fisher_detr.report.commands import Commands
from fisher_detr.report.layers import restyled
from fisher_detr.report.style import color_of, dash_of, line_style_of, shown, spec

_LEAD = (
    "How the loss rises when the weights are moved. A flat loss forgives the small errors of quantization. "
    "Steps are in parts of each output channel's norm, in random directions that are the same for all models."
)
_COLUMNS = 3  # of planes side by side


def landscape(content: Mapping[str, Any] | None, commands: Commands) -> Section:
    """Lines, planes, and sharpness."""
    title = "The loss landscape"
    if content is None:
        return Section("landscape", title, _LEAD, [Missing("No landscape.json.", commands.landscape())])
    models = content["models"]
    objectives = _objectives(models)
    blocks: list[Block] = [
        Chart(
            "landscape-lines",
            spec(_lines(models, objectives)),
            f"Rise of the mean loss of {content['num_images']} images, mean over "
            f"{len(models[0]['lines'][objectives[0]])} directions; the bands hold all of them.",
            400,
        ),
        _sharpness(models, objectives),
    ]
    if has_planes(content):
        rows = -(-len(models) // _COLUMNS)
        for name in objectives:
            caption = f"Rise of the {_title(name, content)} loss in the plane of the first two directions."
            chart = spec(_planes(models, name))
            blocks.append(Chart(f"landscape-planes-{name}", chart, caption, 80 + 300 * rows))
    return Section("landscape", title, _LEAD, blocks)


def draw_landscape(axes: Sequence[Axes], content: Mapping[str, Any]) -> None:
    """The lines for a file, an objective on each axes."""
    models = content["models"]
    for of_objective, objective in zip(axes, _objectives(models), strict=False):
        for place, model in enumerate(models):
            steps, rise, low, high = _rise(model, objective)
            look = {"color": color_of(place), "linestyle": line_style_of(place), "label": model["name"]}
            of_objective.plot(steps, rise, **look)
            of_objective.fill_between(steps, low, high, color=color_of(place), alpha=0.15, linewidth=0)
        of_objective.set_title(objective)
        of_objective.set_xlabel("step")
    axes[0].set_ylabel("rise of the loss")
    axes[0].legend(frameon=False)


def has_planes(content: Mapping[str, Any]) -> bool:
    """Whether the loss was measured in planes too."""
    return bool(content["models"][0]["planes"])


def draw_planes(axes: Sequence[Axes], content: Mapping[str, Any]) -> None:
    """The planes for a file: a row of models for each objective."""
    models, places = content["models"], iter(axes)
    for objective in _objectives(models):
        rises = [_plane_rise(model, objective) for model in models]
        low, high = (of([of(rise) for rise in rises]) for of in (np.min, np.max))
        for model, rise in zip(models, rises, strict=True):
            of_model, steps = next(places), model["plane_steps"]
            drawn = of_model.contourf(steps, steps, rise, levels=14, cmap="cividis", vmin=low, vmax=high)
            of_model.set_title(f"{model['name']}, {objective}", fontsize=9)
            of_model.figure.colorbar(drawn, ax=of_model)


def _objectives(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The overall one first."""
    return sorted(models[0]["lines"], key=lambda name: name != "overall")


def _title(objective: str, content: Mapping[str, Any]) -> str:
    return f"critical ({content['critical_set']})" if objective == "critical" else objective


def _rise(model: Mapping[str, Any], objective: str) -> tuple[list[float], ...]:
    """Steps; mean, lowest and highest rise over the directions."""
    lines = np.array(model["lines"][objective])  # [D, R]
    rises = lines - lines[:, lines.shape[1] // 2 : lines.shape[1] // 2 + 1]
    return model["steps"], *(of(rises, axis=0).tolist() for of in (np.mean, np.min, np.max))


def _lines(models: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> graph_objects.Figure:
    made = make_subplots(1, len(objectives), subplot_titles=list(objectives), shared_yaxes=True)
    for column, objective in enumerate(objectives, start=1):
        for place, model in enumerate(models):
            steps, rise, low, high = _rise(model, objective)
            color = color_of(place)
            band = graph_objects.Scatter(
                x=[*steps, *steps[::-1]],
                y=[*high, *low[::-1]],
                fill="toself",
                fillcolor=color,
                opacity=0.15,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                legendgroup=model["name"],
            )
            line = graph_objects.Scatter(
                x=steps,
                y=rise,
                name=shown(model["name"]),
                legendgroup=model["name"],
                showlegend=column == 1,
                mode="lines",
                line={"color": color, "dash": dash_of(place), "width": 2.5},
                hovertemplate="step %{x:.3g}<br>loss + %{y:.3g}",
            )
            made.add_trace(band, 1, column)
            made.add_trace(line, 1, column)
    made.update_xaxes(title_text="step")
    made.update_yaxes(title_text="rise of the loss", col=1)
    return restyled(made)


def _planes(models: Sequence[Mapping[str, Any]], objective: str) -> graph_objects.Figure:
    rows = -(-len(models) // _COLUMNS)
    columns = min(len(models), _COLUMNS)
    titles = [shown(model["name"]) for model in models]
    made = make_subplots(rows, columns, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    rises = [_plane_rise(model, objective) for model in models]
    top = max(float(rise.max()) for rise in rises)
    for i, (model, rise) in enumerate(zip(models, rises, strict=True)):
        contour = graph_objects.Contour(
            x=model["plane_steps"],
            y=model["plane_steps"],
            z=rise.tolist(),
            zmin=min(0.0, *(float(x.min()) for x in rises)),
            zmax=top,
            ncontours=14,
            contours={"coloring": "heatmap"},  # areas between lines go wrong where a value lies on a line
            colorscale="Cividis",
            showscale=i == 0,
            hovertemplate="%{x:.3g}, %{y:.3g}<br>loss + %{z:.3g}<extra></extra>",
        )
        made.add_trace(contour, i // columns + 1, i % columns + 1)
    made.update_annotations(yshift=4)  # titles clear of the planes
    ends = models[0]["plane_steps"][:: len(models[0]["plane_steps"]) - 1]
    made.update_xaxes(tickvals=[ends[0] / 2, 0, ends[1] / 2])  # labels at the ends meet those of neighbours
    return restyled(made)


def _plane_rise(model: Mapping[str, Any], objective: str) -> np.ndarray:
    plane = np.array(model["planes"][objective])
    middle = len(plane) // 2
    return plane - plane[middle, middle]


def _sharpness(models: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> Table:
    steps = models[0]["sharpness"][objectives[0]]["step"]
    chosen = sorted({len(steps) // 2 - 1 if len(steps) > 1 else 0, len(steps) - 1})
    titles = ["model", *(f"{name}, step {steps[i]:g}" for name in objectives for i in chosen)]
    rows = []
    for model in models:
        cells = [Cell(model["name"])]
        for objective in objectives:
            found = model["sharpness"][objective]
            cells += [Cell(f"{found['rise'][i]:.3f}", f"± {found['standard_error'][i]:.3f}") for i in chosen]
        rows.append(cells)
    return Table(
        titles,
        rows,
        "Sharpness: rise of the loss, mean over directions and signs, ± standard error over images",
    )
