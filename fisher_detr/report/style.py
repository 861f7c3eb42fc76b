"""Colours, symbols and number formats that all sections share.

Colours of arms are of the Okabe-Ito palette, which colour-blind readers can tell apart, without its black and
yellow: one is lost on a dark page, the other on a light one. Symbols differ too.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects

COLORS = ("#7f7f7f", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
SYMBOLS = ("line-ns-open", "circle", "square", "diamond", "triangle-up", "cross", "star")
MARKERS = ("|", "o", "s", "D", "^", "P", "*")  # the same, for matplotlib
# Of objectives, which are no arms: brown and purple, with symbols of their own.
OVERALL_COLOR, CRITICAL_COLORS = "#8C564B", ("#9467BD", "#E377C2", "#17BECF", "#BCBD22")


def symbol_of(place: int) -> str:
    """Of an arm; an eighth has the first one's colour, and not its symbol."""
    return SYMBOLS[(place + place // len(COLORS)) % len(SYMBOLS)]


def look_of(place: int) -> tuple[str, str, str]:
    """Colour, symbol and matplotlib's marker of an objective: the overall one, then the critical ones."""
    if not place:
        return OVERALL_COLOR, SYMBOLS[1], MARKERS[1]
    symbol = 2 + (place - 1) % (len(SYMBOLS) - 2)  # one more than colours: a fifth has another pair
    return CRITICAL_COLORS[(place - 1) % len(CRITICAL_COLORS)], SYMBOLS[symbol], MARKERS[symbol]


def shown(name: str) -> str:
    """A name as Plotly shows it, which takes tags for markup."""
    return html.escape(name, quote=False)


def color_of(place: int) -> str:
    """Of an arm or model, by its place; the first is the reference."""
    return COLORS[place % len(COLORS)]


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
