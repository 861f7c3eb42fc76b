"""Drawings of vehicles: car, van, truck, bus and motorcycle, from the side, from behind or from the front."""

import numpy as np

from .canvas import Colour, Pen, shade
from .sprites_person import pick

PAINTS: tuple[Colour, ...] = (
    (50, 45, 190), (170, 95, 40), (225, 225, 228), (50, 48, 48), (150, 150, 152), (80, 130, 60),
    (60, 190, 225), (100, 60, 50), (40, 100, 210),
)  # fmt: skip
VAN_PAINTS: tuple[Colour, ...] = (
    (230, 230, 232),
    (215, 215, 220),
    (60, 200, 240),
    (170, 95, 40),
    (60, 60, 190),
)
BUS_PAINTS: tuple[Colour, ...] = ((45, 190, 245), (50, 50, 200), (90, 150, 60))
GLASS: Colour = (105, 85, 65)
TYRE: Colour = (30, 30, 32)
RIM: Colour = (165, 165, 168)
HEAD_LIGHT: Colour = (200, 245, 255)
TAIL_LIGHT: Colour = (40, 30, 235)
PLATE: Colour = (225, 235, 235)
UNDERSIDE: Colour = (40, 40, 42)


def _wheel(pen: Pen, x: float, radius: float) -> None:
    pen.ellipse(x, radius, radius, radius, TYRE)
    pen.ellipse(x, radius, radius * 0.55, radius * 0.55, RIM)


def _end_lights(pen: Pen, back: float, front: float, height: float, size: float) -> None:
    """Tail light at the left end and head light at the right end of a vehicle seen from the side."""
    pen.rect(back, height - size, back + size * 0.8, height + size, TAIL_LIGHT)
    pen.rect(front - size * 0.8, height - size, front, height + size, HEAD_LIGHT)
    pen.glow(front, height, 0.25, HEAD_LIGHT)
    pen.glow(back, height, 0.15, TAIL_LIGHT)


def draw_car_side(pen: Pen, rng: np.random.Generator) -> None:
    """A car (hatchback, saloon or estate) seen from the side, 2.7 heights long."""
    paint = pick(rng, PAINTS)
    tail = rng.choice([-1.28, -1.0, -0.82])  # where the roof comes down at the back
    pen.poly(
        [(-1.33, 0.2), (1.33, 0.2), (1.35, 0.45), (1.2, 0.58), (0.6, 0.64), (-1.28, 0.64), (-1.35, 0.45)],
        paint,
    )
    pen.poly([(tail, 0.62), (tail + 0.28, 0.98), (0.2, 1.0), (0.72, 0.62)], paint)
    pen.poly([(tail + 0.17, 0.63), (tail + 0.36, 0.92), (-0.18, 0.93), (-0.18, 0.63)], GLASS)
    pen.poly([(-0.1, 0.63), (-0.1, 0.93), (0.18, 0.93), (0.56, 0.63)], GLASS)
    pen.line([(-0.14, 0.62), (-0.14, 0.26)], 0.02, shade(paint, 0.7))
    pen.rect(-1.3, 0.17, 1.3, 0.25, shade(paint, 0.55))
    _end_lights(pen, -1.34, 1.34, 0.5, 0.07)
    for x in (-0.82, 0.85):
        _wheel(pen, x, 0.235)


def draw_car_back(pen: Pen, rng: np.random.Generator) -> None:
    """A car seen from behind, 1.25 heights wide."""
    paint = pick(rng, PAINTS)
    for side in (-1, 1):
        pen.rect(side * 0.58, 0.0, side * 0.36, 0.25, TYRE)
    pen.poly([(-0.62, 0.13), (0.62, 0.13), (0.62, 0.55), (0.55, 0.64), (-0.55, 0.64), (-0.62, 0.55)], paint)
    pen.poly([(-0.56, 0.62), (-0.42, 0.98), (0.42, 0.98), (0.56, 0.62)], paint)
    pen.poly([(-0.46, 0.65), (-0.36, 0.92), (0.36, 0.92), (0.46, 0.65)], GLASS)
    for side in (-1, 1):
        pen.rect(side * 0.6, 0.42, side * 0.42, 0.57, TAIL_LIGHT)
        pen.glow(side * 0.5, 0.5, 0.2, TAIL_LIGHT)
    pen.rect(-0.2, 0.36, 0.2, 0.48, PLATE)
    pen.rect(-0.6, 0.12, 0.6, 0.22, shade(paint, 0.6))


def draw_car_front(pen: Pen, rng: np.random.Generator) -> None:
    """A car seen from the front, 1.25 heights wide."""
    paint = pick(rng, PAINTS)
    for side in (-1, 1):
        pen.rect(side * 0.58, 0.0, side * 0.36, 0.25, TYRE)
    pen.poly([(-0.62, 0.13), (0.62, 0.13), (0.62, 0.5), (0.5, 0.64), (-0.5, 0.64), (-0.62, 0.5)], paint)
    pen.poly([(-0.54, 0.62), (-0.4, 1.0), (0.4, 1.0), (0.54, 0.62)], paint)
    pen.poly([(-0.46, 0.63), (-0.34, 0.93), (0.34, 0.93), (0.46, 0.63)], GLASS)
    pen.rect(-0.3, 0.3, 0.3, 0.44, UNDERSIDE)
    pen.rect(-0.16, 0.2, 0.16, 0.28, PLATE)
    for side in (-1, 1):
        pen.ellipse(side * 0.47, 0.42, 0.11, 0.09, HEAD_LIGHT)
        pen.glow(side * 0.47, 0.42, 0.3, HEAD_LIGHT)


def draw_van_side(pen: Pen, rng: np.random.Generator) -> None:
    """A delivery van seen from the side, 2.1 heights long: one box with a short sloping nose."""
    paint = pick(rng, VAN_PAINTS)
    pen.poly(
        [(-1.05, 0.14), (1.03, 0.14), (1.05, 0.42), (0.88, 0.56), (0.56, 0.96), (-1.0, 1.0), (-1.05, 0.9)],
        paint,
    )
    pen.poly([(0.2, 0.57), (0.2, 0.88), (0.53, 0.88), (0.79, 0.57)], GLASS)
    if rng.random() < 0.45:
        pen.rect(-0.9, 0.57, -0.42, 0.88, GLASS)
        pen.rect(-0.36, 0.57, 0.12, 0.88, GLASS)
    else:
        pen.rect(-0.85, 0.5, 0.02, 0.66, pick(rng, PAINTS))
    pen.line([(0.14, 0.2), (0.14, 0.92)], 0.015, shade(paint, 0.7))
    pen.rect(-1.04, 0.12, 1.02, 0.19, shade(paint, 0.55))
    _end_lights(pen, -1.05, 1.04, 0.38, 0.06)
    for x in (-0.66, 0.66):
        _wheel(pen, x, 0.165)


def draw_van_back(pen: Pen, rng: np.random.Generator) -> None:
    """A delivery van seen from behind, 0.85 heights wide: two doors with windows."""
    paint = pick(rng, VAN_PAINTS)
    for side in (-1, 1):
        pen.rect(side * 0.39, 0.0, side * 0.25, 0.16, TYRE)
    pen.poly([(-0.43, 0.09), (0.43, 0.09), (0.42, 0.8), (0.36, 1.0), (-0.36, 1.0), (-0.42, 0.8)], paint)
    for side in (-1, 1):
        pen.rect(side * 0.04, 0.6, side * 0.34, 0.86, GLASS)
        pen.rect(side * 0.42, 0.3, side * 0.34, 0.5, TAIL_LIGHT)
        pen.glow(side * 0.38, 0.4, 0.14, TAIL_LIGHT)
    pen.line([(0, 0.14), (0, 0.96)], 0.02, shade(paint, 0.6))
    pen.rect(-0.42, 0.08, 0.42, 0.15, shade(paint, 0.55))
    pen.rect(-0.15, 0.24, 0.15, 0.32, PLATE)


def draw_truck_side(pen: Pen, rng: np.random.Generator) -> None:
    """A truck seen from the side, 2.2 heights long: a cab and a separate cargo box."""
    cab, cargo = pick(rng, PAINTS), pick(rng, PAINTS + VAN_PAINTS)
    pen.rect(-1.1, 0.15, 1.0, 0.26, UNDERSIDE)
    pen.rect(-1.1, 0.25, 0.48, 1.0, cargo)
    for x in np.linspace(-0.95, 0.35, 6):
        pen.line([(x, 0.29), (x, 0.96)], 0.012, shade(cargo, 0.78))
    pen.rect(-1.1, 0.25, 0.48, 0.3, shade(cargo, 0.6))
    pen.poly([(0.55, 0.18), (1.1, 0.18), (1.1, 0.5), (1.0, 0.82), (0.55, 0.84)], cab)
    pen.poly([(0.66, 0.52), (0.66, 0.76), (0.96, 0.76), (1.04, 0.52)], GLASS)
    _end_lights(pen, -1.1, 1.1, 0.27, 0.05)
    for x in (-0.85, -0.52, 0.8):
        _wheel(pen, x, 0.15)


def draw_truck_back(pen: Pen, rng: np.random.Generator) -> None:
    """A truck seen from behind, 0.85 heights wide: the two doors of the cargo box."""
    cargo = pick(rng, PAINTS + VAN_PAINTS)
    for side in (-1, 1):
        pen.rect(side * 0.38, 0.0, side * 0.2, 0.18, TYRE)
    pen.rect(-0.42, 0.12, 0.42, 0.24, UNDERSIDE)
    pen.rect(-0.43, 0.23, 0.43, 1.0, cargo)
    for x in (-0.4, 0.0, 0.4):
        pen.line([(x, 0.25), (x, 0.98)], 0.022, shade(cargo, 0.6))
    for x in (-0.13, 0.13):
        pen.line([(x, 0.3), (x, 0.9)], 0.02, RIM)
    for side in (-1, 1):
        pen.rect(side * 0.4, 0.14, side * 0.24, 0.21, TAIL_LIGHT)
        pen.glow(side * 0.32, 0.18, 0.13, TAIL_LIGHT)


def draw_bus_side(pen: Pen, rng: np.random.Generator) -> None:
    """A bus seen from the side, 2.5 heights long: a row of windows."""
    paint = pick(rng, BUS_PAINTS)
    pen.poly([(-1.25, 0.12), (1.23, 0.12), (1.25, 0.6), (1.2, 1.0), (-1.22, 1.0), (-1.25, 0.95)], paint)
    pen.rect(-1.2, 0.53, 1.19, 0.87, GLASS)
    for x in np.linspace(-0.85, 0.85, 6):
        pen.line([(x, 0.53), (x, 0.87)], 0.03, paint)
    pen.rect(0.86, 0.16, 1.12, 0.86, shade(GLASS, 1.2))
    pen.line([(0.99, 0.16), (0.99, 0.86)], 0.02, paint)
    pen.rect(-1.25, 0.36, 0.82, 0.42, shade(paint, 0.65))
    pen.rect(-1.24, 0.11, 1.22, 0.17, shade(paint, 0.5))
    _end_lights(pen, -1.25, 1.24, 0.3, 0.06)
    for x in (-0.78, 0.62):
        _wheel(pen, x, 0.15)


def draw_bus_front(pen: Pen, rng: np.random.Generator) -> None:
    """A bus seen from the front, 0.85 heights wide: one large pane and a destination sign."""
    paint = pick(rng, BUS_PAINTS)
    for side in (-1, 1):
        pen.rect(side * 0.37, 0.0, side * 0.24, 0.15, TYRE)
    pen.poly([(-0.42, 0.08), (0.42, 0.08), (0.42, 0.9), (0.36, 1.0), (-0.36, 1.0), (-0.42, 0.9)], paint)
    pen.rect(-0.38, 0.42, 0.38, 0.82, GLASS)
    pen.line([(0, 0.42), (0, 0.82)], 0.015, paint)
    pen.rect(-0.26, 0.86, 0.26, 0.96, (30, 30, 32))
    pen.rect(-0.2, 0.89, 0.2, 0.93, (40, 190, 255))
    for side in (-1, 1):
        pen.ellipse(side * 0.3, 0.25, 0.08, 0.06, HEAD_LIGHT)
        pen.glow(side * 0.3, 0.25, 0.22, HEAD_LIGHT)
        pen.line([(side * 0.42, 0.8), (side * 0.48, 0.74), (side * 0.48, 0.62)], 0.035, (40, 40, 42))


def draw_motorcycle(pen: Pen, rng: np.random.Generator) -> None:
    """A parked motorcycle seen from the side, 1.75 heights long."""
    paint = pick(rng, PAINTS)
    for x in (-0.58, 0.58):
        pen.ellipse(x, 0.27, 0.27, 0.27, TYRE)
        pen.ellipse(x, 0.27, 0.14, 0.14, RIM)
    pen.line([(0.58, 0.27), (0.34, 0.86)], 0.07, RIM)
    pen.poly([(-0.25, 0.2), (0.2, 0.2), (0.28, 0.5), (-0.3, 0.5)], (75, 75, 78))
    pen.line([(-0.75, 0.22), (-0.1, 0.25)], 0.08, (190, 190, 192))
    pen.poly([(-0.82, 0.58), (-0.8, 0.7), (-0.3, 0.56), (-0.22, 0.45), (-0.62, 0.5)], paint)
    pen.ellipse(0.1, 0.62, 0.28, 0.15, paint)
    pen.poly([(-0.68, 0.62), (-0.64, 0.74), (-0.12, 0.68), (-0.12, 0.56)], (35, 35, 38))
    pen.ellipse(0.42, 0.7, 0.11, 0.12, paint)
    pen.ellipse(0.5, 0.7, 0.05, 0.08, HEAD_LIGHT)
    pen.glow(0.52, 0.7, 0.2, HEAD_LIGHT)
    pen.line([(0.34, 0.86), (0.28, 0.98), (0.16, 0.95)], 0.05, (40, 40, 42))
