"""The charts of a report as files, for papers and pages: PNG and SVG, by matplotlib."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fisher_detr.files import write_atomically
from fisher_detr.report.build import ReportData
from fisher_detr.report.categories import category_rows, draw_categories
from fisher_detr.report.landscape import draw_landscape, draw_planes, has_planes
from fisher_detr.report.layers import draw_layers, drawn_heights
from fisher_detr.report.pareto import draw_pareto
from fisher_detr.report.traces import draw_traces

_DPI = 160


def draw_figures(data: ReportData, folder: str | os.PathLike) -> list[Path]:
    """Draw every chart that there are files for.

    Args:
        data: what runs have left.
        folder: that gets `<chart>.png` and `<chart>.svg`.

    Returns:
        The files.
    """
    return [path for name, draw in _charts(data).items() for path in _save(draw(), Path(folder) / name)]


def _charts(data: ReportData) -> dict[str, Callable[[], Figure]]:
    rows = len(category_rows(data.arms))
    charts = {
        "categories": lambda: _drawn((7, 1.2 + 0.25 * rows), 1, 1, lambda x: draw_categories(x[0], data.arms))
    }
    if any(arm.allocation for arm in data.arms):
        heights = drawn_heights(data.arms)
        charts["layers"] = lambda: _drawn(
            (9, sum(heights)), 2, 1, lambda x: draw_layers(x, data.arms), heights
        )
    if data.traces:
        charts["traces"] = lambda: _drawn((7, 5), 1, 1, lambda x: draw_traces(x[0], data.arms, data.traces))
    if data.landscape:
        columns = len(data.landscape["models"][0]["lines"])
        charts["landscape"] = lambda: _drawn(
            (4 * columns, 3.6), 1, columns, lambda x: draw_landscape(x, data.landscape)
        )
        if has_planes(data.landscape):
            models = len(data.landscape["models"])
            charts["landscape_planes"] = lambda: _drawn(
                (3 * models, 2.6 * columns), columns, models, lambda x: draw_planes(x, data.landscape)
            )
    if data.plans:
        charts["pareto"] = lambda: _drawn((6, 4), 1, 1, lambda x: draw_pareto(x[0], data.plans))
    return charts


def _drawn(
    size: tuple[float, float],
    rows: int,
    columns: int,
    draw: Callable,
    heights: Sequence[float] | None = None,
) -> Figure:
    figure = Figure(size, layout="constrained")
    shared = {"sharex": rows > 1, "sharey": columns > 1}
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights, **shared)
    draw(axes.ravel())
    for of_figure in axes.ravel():
        of_figure.spines[["top", "right"]].set_visible(False)
    return figure


def _save(figure: Figure, path: Path) -> list[Path]:
    written = []
    for suffix in (".png", ".svg"):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], dpi=_DPI)
        target = path.with_suffix(suffix)
        write_atomically(target, lambda file, content=content: file.write(content.getvalue()))
        written.append(target)
    return written
