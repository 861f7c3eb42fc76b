"""Colours that colour-blind readers can tell apart, and looks that no two series share."""

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from fisher_detr.report import style

# Severity 1.0, on linear RGB: Machado, Oliveira and Fernandes, "A physiologically-based model for simulation
# of color vision deficiency", IEEE Transactions on Visualization and Computer Graphics 15 (6), 2009.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# IEC 61966-2-1: linear sRGB to XYZ, with the white point D65.
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Of the page's style sheet.
PAPER = {"light": "#ffffff", "dark": "#16171b"}
INK = {"light": "#1b1b1f", "dark": "#e8e8ec"}
LEAST = 15.0  # in CIELAB; a difference of 2.3 is just noticeable side by side, these are points in a plot


def linear(color):
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear sRGB."""
    ratio = TO_XYZ @ rgb.clip(0.0, 1.0) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first, second, vision="normal"):
    return np.linalg.norm(np.subtract(*(lab(VISION[vision] @ linear(x)) for x in (first, second))))


def test_distances_are_those_of_cielab():
    """Known: white, black and red of sRGB have L*a*b* (100, 0, 0), (0, 0, 0) and (53.24, 80.09, 67.2)."""
    assert distance("#ffffff", "#000000") == pytest.approx(100.0, abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx((53.24, 80.09, 67.20), abs=0.05)
    # A grey is a grey to everyone; a red and a green that are far apart are alike to some.
    for matrix in VISION.values():
        assert lab(matrix @ linear("#808080"))[1:] == pytest.approx((0.0, 0.0), abs=0.1)
    assert distance("#c65a5a", "#8c7d2d") > 50 > 20 > distance("#c65a5a", "#8c7d2d", "deuteranopia")


PALETTES = {
    "arms": style.COLORS,
    "objectives": style.OBJECTIVE_COLORS,
    "objectives on a dark page": (INK["dark"], *style.OBJECTIVE_COLORS[1:]),
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_colours_are_told_apart(palette, vision):
    distances = {pair: distance(*pair, vision) for pair in itertools.combinations(palette, 2)}
    nearest = min(distances, key=distances.get)
    assert distances[nearest] >= LEAST, nearest


@pytest.mark.parametrize("page", PAPER)
def test_colours_are_seen_on_both_papers(page):
    """WCAG's contrast: 2 for points and lines of this size; the palette's orange has 2.25 on white."""
    for color in (*style.COLORS, INK[page]):
        both = (0.05 + (TO_XYZ @ linear(x))[1] for x in (color, PAPER[page]))
        light, dark = sorted(both, reverse=True)
        assert light / dark > 2.0, color


def test_papers_and_inks_are_those_of_the_page():
    templates = resources.files("fisher_detr.report").joinpath("templates")
    sheet = templates.joinpath("report.css").read_text()
    for page in PAPER:
        told = rf"color-scheme: {page};\s+--paper: {PAPER[page]}; --ink: {INK[page]};"
        assert re.search(told, sheet), page
    assert f'"{style.INK}"' in templates.joinpath("report.js").read_text()


def test_no_two_series_look_alike():
    for look in (style.symbol_of, style.marker_of, style.dash_of, style.line_style_of):
        assert len({(style.color_of(place), look(place)) for place in range(42)}) == 42
    objectives = [style.look_of(place) for place in range(42)]
    assert len({look[:2] for look in objectives}) == len({look[::2] for look in objectives}) == 42
    assert len(style.DASHES) == len(style.LINE_STYLES) and len(style.SYMBOLS) == len(style.MARKERS)
