"""Drawings of signs and lights.

Of a sign or a traffic light the object is the plate or the housing; the pole below it belongs to the scene.
"""

import math

import numpy as np

from .canvas import Colour, Pen, shade

RED: Colour = (40, 30, 205)
WHITE: Colour = (240, 240, 242)
BLACK: Colour = (30, 28, 28)
HOUSING: Colour = (45, 48, 45)
LAMP_LIGHT: Colour = (170, 235, 255)
SIGNAL_COLOURS: tuple[Colour, ...] = ((50, 40, 250), (30, 200, 255), (110, 235, 60))

# Strokes in a cell that is 1 wide and 2 high.
_LETTERS = {
    "S": [
        [
            (0.95, 1.8),
            (0.6, 2),
            (0.2, 1.95),
            (0, 1.5),
            (0.3, 1.1),
            (0.8, 0.9),
            (1, 0.5),
            (0.7, 0),
            (0.05, 0.15),
        ]
    ],
    "T": [[(0, 2), (1, 2)], [(0.5, 2), (0.5, 0)]],
    "O": [[(0.5, 2), (0, 1.5), (0, 0.5), (0.5, 0), (1, 0.5), (1, 1.5), (0.5, 2)]],
    "P": [[(0, 0), (0, 2), (0.8, 2), (1, 1.5), (0.8, 1), (0, 1)]],
    "3": [[(0, 1.8), (0.5, 2), (1, 1.6), (0.4, 1.05), (1, 0.5), (0.5, 0), (0, 0.2)]],
    "5": [[(1, 2), (0.05, 2), (0, 1.1), (0.6, 1.2), (1, 0.6), (0.6, 0), (0, 0.15)]],
    "7": [[(0, 2), (1, 2), (0.35, 0)]],
    "8": [[(0.5, 2), (0.05, 1.6), (0.95, 0.5), (0.5, 0), (0.05, 0.5), (0.95, 1.6), (0.5, 2)]],
    "0": [[(0.5, 2), (0, 1.5), (0, 0.5), (0.5, 0), (1, 0.5), (1, 1.5), (0.5, 2)]],
}


def _write(
    pen: Pen, text: str, centre: tuple[float, float], size: float, stroke: float, colour: Colour
) -> None:
    """Writes a word; ``size`` is the width of a letter, its height is twice that."""
    step = 1.45 * size
    left = centre[0] - (step * (len(text) - 1) + size) / 2
    for place, letter in enumerate(text):
        for points in _LETTERS[letter]:
            corners = [(left + place * step + size * x, centre[1] + size * (y - 1)) for x, y in points]
            pen.line(corners, stroke, colour)


def _octagon(radius: float) -> list[tuple[float, float]]:
    corners = [math.pi / 8 + k * math.pi / 4 for k in range(8)]
    return [(radius * math.cos(a), 0.5 + radius * math.sin(a)) for a in corners]


def draw_stop(pen: Pen, rng: np.random.Generator) -> None:
    """A red octagon with a white rim and the word STOP."""
    red = shade(RED, rng.uniform(0.85, 1.15))
    pen.poly(_octagon(0.54), WHITE)
    pen.poly(_octagon(0.49), red)
    _write(pen, "STOP", (0.0, 0.5), 0.125, 0.05, WHITE)


def draw_no_entry(pen: Pen, rng: np.random.Generator) -> None:
    """A red disc with a white bar."""
    red = shade(RED, rng.uniform(0.85, 1.15))
    pen.ellipse(0, 0.5, 0.5, 0.5, WHITE)
    pen.ellipse(0, 0.5, 0.46, 0.46, red)
    pen.rect(-0.33, 0.41, 0.33, 0.59, WHITE)


def draw_speed_limit(pen: Pen, rng: np.random.Generator) -> None:
    """A white disc with a red ring and a number."""
    red = shade(RED, rng.uniform(0.85, 1.15))
    pen.ellipse(0, 0.5, 0.5, 0.5, red)
    pen.ellipse(0, 0.5, 0.36, 0.36, WHITE)
    _write(pen, str(rng.choice(["30", "50", "70", "80"])), (0.0, 0.5), 0.17, 0.065, BLACK)


def draw_yield(pen: Pen, rng: np.random.Generator) -> None:
    """A white triangle with a red border, one corner down."""
    red = shade(RED, rng.uniform(0.85, 1.15))
    pen.poly([(-0.57, 1.0), (0.57, 1.0), (0.0, 0.0)], red)
    pen.poly([(-0.36, 0.87), (0.36, 0.87), (0.0, 0.24)], WHITE)


def draw_traffic_light(pen: Pen, rng: np.random.Generator) -> None:
    """A dark housing with three lamps above each other, one (or red and amber) of them lit."""
    body = shade(HOUSING, rng.uniform(0.7, 1.2))
    pen.rect(-0.2, 0.0, 0.2, 1.0, body)
    lit = {0: (0,), 1: (0,), 2: (2,), 3: (2,), 4: (1,), 5: (0, 1)}[int(rng.integers(6))]
    for place, colour in enumerate(SIGNAL_COLOURS):
        y = 0.82 - 0.32 * place
        on = place in lit
        pen.ellipse(0, y, 0.13, 0.13, colour if on else shade(colour, 0.22))
        if on:
            pen.glow(0, y, 0.35, colour)


def draw_street_lamp(pen: Pen, rng: np.random.Generator) -> None:
    """A lamp post with one curved arm, or an old one with a lantern on top."""
    metal = shade((82, 84, 82), rng.uniform(0.55, 1.15))
    pen.rect(-0.03, 0.0, 0.03, 0.1, metal)
    if rng.random() < 0.6:
        pen.line([(0, 0.02), (0, 0.88), (0.04, 0.95), (0.12, 0.97), (0.24, 0.96)], 0.036, metal)
        pen.poly([(0.12, 0.975), (0.2, 1.0), (0.32, 0.97), (0.31, 0.94), (0.13, 0.94)], shade(metal, 0.8))
        pen.rect(0.15, 0.93, 0.3, 0.95, LAMP_LIGHT)
        pen.glow(0.23, 0.93, 0.22, LAMP_LIGHT)
    else:
        pen.line([(0, 0.02), (0, 0.82)], 0.036, metal)
        pen.poly([(-0.045, 0.8), (0.045, 0.8), (0.075, 0.93), (-0.075, 0.93)], LAMP_LIGHT)
        pen.poly([(-0.09, 0.93), (0.09, 0.93), (0.0, 1.0)], shade(metal, 0.7))
        pen.line([(-0.12, 0.78), (0.12, 0.78)], 0.02, metal)
        pen.glow(0, 0.87, 0.22, LAMP_LIGHT)
