"""Drawings of animals: dog, cat and deer."""

import numpy as np

from .canvas import Colour, Pen, shade
from .sprites_person import pick

FURS: tuple[Colour, ...] = ((60, 100, 160), (45, 60, 90), (40, 40, 42), (170, 200, 220), (120, 125, 130))
CAT_FURS: tuple[Colour, ...] = ((50, 120, 215), (40, 40, 42), (125, 125, 130), (205, 215, 220), (60, 85, 120))
DEER: Colour = (60, 105, 165)


def _four_legs(
    pen: Pen, rng: np.random.Generator, xs: tuple[float, float], top: float, width: float, fur: Colour
):
    """Two pairs of legs below the body, at ``xs``, in a random phase of walking."""
    step = rng.uniform(-0.09, 0.09)
    for x, swing in ((xs[0], step), (xs[1], -step)):
        pen.line([(x + 0.03, top), (x - swing, width / 2)], width, shade(fur, 0.7))
        pen.line([(x - 0.03, top), (x + swing, width / 2)], width, fur)


def draw_dog(pen: Pen, rng: np.random.Generator) -> None:
    """A dog from the side: long muzzle, hanging ear, short raised tail, some with a collar."""
    fur = pick(rng, FURS)
    _four_legs(pen, rng, (-0.4, 0.3), 0.5, 0.12, fur)
    pen.line([(-0.5, 0.62), (-0.65, 0.75 + rng.uniform(0, 0.15))], 0.08, fur)
    pen.line([(-0.38, 0.56), (0.3, 0.58)], 0.32, fur)
    pen.line([(0.32, 0.6), (0.46, 0.8)], 0.24, fur)
    pen.ellipse(0.48, 0.84, 0.17, 0.15, fur)
    pen.line([(0.55, 0.8), (0.72, 0.77)], 0.13, shade(fur, 1.15))
    pen.ellipse(0.77, 0.79, 0.04, 0.04, (25, 25, 28))
    pen.ellipse(0.38, 0.8, 0.07, 0.16, shade(fur, 0.6))
    pen.ellipse(0.54, 0.88, 0.03, 0.03, (20, 20, 22))
    if rng.random() < 0.5:
        pen.line([(0.28, 0.72), (0.44, 0.64)], 0.06, (50, 40, 210))


def draw_cat(pen: Pen, rng: np.random.Generator) -> None:
    """A cat from the side: round head, upright pointed ears, long raised tail, some striped."""
    fur = pick(rng, CAT_FURS)
    _four_legs(pen, rng, (-0.35, 0.28), 0.4, 0.09, fur)
    bend = rng.uniform(-0.08, 0.08)
    pen.line([(-0.44, 0.5), (-0.62, 0.62), (-0.66 + bend, 0.8), (-0.56 + bend, 0.96)], 0.075, fur)
    pen.ellipse(-0.05, 0.46, 0.45, 0.19, fur)
    if rng.random() < 0.5:
        for x in (-0.3, -0.12, 0.06, 0.22):
            pen.line([(x, 0.62), (x - 0.02, 0.46)], 0.04, shade(fur, 0.6))
    for x in (0.36, 0.56):
        pen.poly([(x - 0.09, 0.78), (x + 0.09, 0.78), (x + (x - 0.46) * 0.3, 1.0)], fur)
    pen.ellipse(0.46, 0.7, 0.19, 0.17, fur)
    for x in (0.42, 0.55):
        pen.ellipse(x, 0.73, 0.03, 0.035, (60, 210, 200))
    pen.ellipse(0.53, 0.64, 0.06, 0.045, shade(fur, 1.25))


def draw_deer(pen: Pen, rng: np.random.Generator) -> None:
    """A deer from the side: long thin legs, long neck, white rump, most with antlers."""
    fur = shade(DEER, rng.uniform(0.85, 1.15))
    _four_legs(pen, rng, (-0.28, 0.18), 0.4, 0.055, fur)
    pen.line([(-0.24, 0.48), (0.16, 0.5)], 0.21, fur)
    pen.ellipse(-0.34, 0.5, 0.05, 0.08, (225, 232, 235))
    pen.poly([(0.08, 0.55), (0.27, 0.45), (0.39, 0.72), (0.27, 0.76)], fur)
    pen.line([(0.31, 0.76), (0.45, 0.71)], 0.085, fur)
    pen.ellipse(0.47, 0.7, 0.03, 0.03, (25, 25, 28))
    pen.ellipse(0.2, 0.77, 0.08, 0.03, shade(fur, 0.8))
    pen.line([(-0.15, 0.43), (0.1, 0.44)], 0.06, shade(fur, 1.35))
    if rng.random() < 0.75:
        bone = (150, 185, 205)
        for lean in (-0.08, 0.06):
            pen.line([(0.29, 0.79), (0.27 + lean, 0.9), (0.31 + 1.6 * lean, 0.99)], 0.03, bone)
            pen.line([(0.27 + lean, 0.9), (0.34 + 2 * lean, 0.92)], 0.025, bone)
