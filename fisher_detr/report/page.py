"""Sections -> one HTML file that needs nothing else: no network, no other file."""

import os
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from fisher_detr.files import write_text
from fisher_detr.report.blocks import Section


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: heading.
        subtitle: below it.
        sections: in the order of the page.
    """
    environment = Environment(
        loader=PackageLoader("fisher_detr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(title=title, subtitle=subtitle, sections=sections, plotly=get_plotlyjs())


def save_page(path: str | os.PathLike, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write the page, atomically."""
    write_text(path, render(title, subtitle, sections))
