"""Drawings of obstacles: traffic cone, barrier and trash bin."""

import numpy as np

from .canvas import Colour, Pen, shade
from .sprites_person import pick

ORANGE: Colour = (25, 105, 245)
WHITE: Colour = (235, 238, 240)
RED: Colour = (45, 40, 215)
BINS: tuple[Colour, ...] = ((70, 125, 60), (75, 70, 66), (150, 90, 40), (50, 180, 215))


def draw_cone(pen: Pen, rng: np.random.Generator) -> None:
    """An orange traffic cone with one or two white bands."""
    orange = shade(ORANGE, rng.uniform(0.85, 1.1))
    pen.poly([(-0.4, 0.0), (0.4, 0.0), (0.36, 0.1), (-0.36, 0.1)], shade(orange, 0.7))
    pen.poly([(-0.27, 0.09), (0.27, 0.09), (0.06, 1.0), (-0.06, 1.0)], orange)
    bands = ((0.3, 0.48), (0.64, 0.78)) if rng.random() < 0.6 else ((0.42, 0.66),)
    for low, high in bands:
        half_low, half_high = (0.27 - 0.21 * (y - 0.09) / 0.91 for y in (low, high))
        pen.poly([(-half_low, low), (half_low, low), (half_high, high), (-half_high, high)], WHITE)


def draw_barrier(pen: Pen, rng: np.random.Generator) -> None:
    """A red and white striped board on two feet, with a warning lamp, 1.8 heights long."""
    red = shade(RED, rng.uniform(0.85, 1.1))
    for x in (-0.65, 0.65):
        pen.line([(x - 0.12, 0.04), (x, 0.5), (x + 0.12, 0.04)], 0.06, (90, 90, 92))
    for low, high in ((0.52, 0.82), (0.2, 0.36)):
        pen.rect(-0.9, low, 0.9, high, WHITE)
        for x in np.arange(-0.9, 0.7, 0.4):
            pen.poly([(x, low), (x + 0.2, low), (x + 0.34, high), (x + 0.14, high)], red)
    for x in (-0.65, 0.65):
        pen.ellipse(x, 0.92, 0.09, 0.09, (30, 180, 255))
        pen.glow(x, 0.92, 0.25, (30, 180, 255))


def draw_trash_bin(pen: Pen, rng: np.random.Generator) -> None:
    """A wheeled bin with a lid."""
    colour = pick(rng, BINS)
    pen.ellipse(0.22, 0.08, 0.09, 0.09, (30, 30, 32))
    pen.poly([(-0.25, 0.03), (0.25, 0.03), (0.33, 0.84), (-0.33, 0.84)], colour)
    for x in (-0.15, 0.0, 0.15):
        pen.line([(x, 0.12), (x * 1.25, 0.72)], 0.03, shade(colour, 0.72))
    pen.poly([(-0.38, 0.82), (0.4, 0.82), (0.36, 0.94), (0.0, 1.0), (-0.34, 0.94)], shade(colour, 0.65))
    pen.rect(-0.12, 0.5, 0.12, 0.64, (225, 230, 232))
