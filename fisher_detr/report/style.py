"""Colours, symbols and number formats that all sections share.

Colours are of the Okabe-Ito palette, which colour-blind readers can tell apart, without its yellow, lost on
a light page. Its black is the page's ink, light on a dark page. The reference has a dark grey: a lighter
one may be green or purple to such readers. Symbols and dashes differ too.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects

GREY, INK = "#666666", "#000000"  # the page's script puts its own in the place of INK
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
COLORS = (GREY, *_OKABE_ITO)
# Of objectives, which are no arms: from the other end, as a page seldom has so many arms that both meet.
OBJECTIVE_COLORS = (INK, *_OKABE_ITO[::-1])
SYMBOLS = ("line-ns-open", "circle", "square", "diamond", "triangle-up", "cross", "star")
MARKERS = ("|", "o", "s", "D", "^", "P", "*")  # the same, for matplotlib
# One fewer than colours: only the 43rd line looks like the first again.
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LINE_STYLES = ("-", "--", ":", "-.", (0, (9, 3)), (0, (9, 3, 2, 3)))  # the same, for matplotlib


def color_of(place: int) -> str:
    """Of an arm or model, by its place; the first is the reference."""
    return COLORS[place % len(COLORS)]


def symbol_of(place: int) -> str:
    """Of an arm; an eighth has the first one's colour, and not its symbol."""
    return SYMBOLS[_symbol(place)]


def marker_of(place: int) -> str:
    """The same, for matplotlib."""
    return MARKERS[_symbol(place)]


def _symbol(place: int) -> int:
    return (place + place // len(COLORS)) % len(SYMBOLS)


def dash_of(place: int) -> str:
    """Of the line of an arm or model."""
    return DASHES[place % len(DASHES)]


def line_style_of(place: int) -> Any:
    """The same, for matplotlib."""
    return LINE_STYLES[place % len(LINE_STYLES)]


def look_of(place: int) -> tuple[str, str, str]:
    """Colour, symbol and matplotlib's marker of an objective: the overall one, then the critical ones."""
    symbol = 1 + place % (len(SYMBOLS) - 1)  # without the reference's: one fewer than colours, as dashes
    return OBJECTIVE_COLORS[place % len(OBJECTIVE_COLORS)], SYMBOLS[symbol], MARKERS[symbol]


def shown(name: str) -> str:
    """A name as Plotly shows it, which takes tags for markup."""
    return html.escape(name, quote=False)


def figure(traces: Sequence[Any], layout: Mapping[str, Any] | None = None) -> graph_objects.Figure:
    """A figure without colours of its own paper: the page gives them, light or dark."""
    made = graph_objects.Figure(data=list(traces))
    made.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 16, "t": 28, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"namelength": -1},
        **(layout or {}),
    )
    made.update_xaxes(automargin=True, zeroline=False)
    made.update_yaxes(automargin=True, zeroline=False)
    return made


def spec(made: graph_objects.Figure) -> str:
    """The figure as JSON that may stand within a page's script element."""
    return made.to_json().replace("<", "\\u003c")


def number(value: float | None, digits: int = 1) -> str:
    """With a fixed number of digits; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference."""
    return "" if value is None else f"{value:+,.{digits}f}".replace("-", "−")
