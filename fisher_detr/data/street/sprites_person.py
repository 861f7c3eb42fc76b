"""Drawings of people: pedestrian, child, worker and cyclist."""

from dataclasses import dataclass

import numpy as np

from .canvas import Colour, Pen, shade

SKINS: tuple[Colour, ...] = ((170, 200, 240), (130, 170, 220), (90, 130, 190), (60, 90, 140), (45, 65, 100))
HAIRS: tuple[Colour, ...] = ((30, 30, 35), (30, 50, 80), (50, 90, 130), (110, 170, 210), (140, 140, 145))
SHIRTS: tuple[Colour, ...] = (
    (150, 70, 40), (60, 60, 170), (70, 110, 50), (200, 200, 205), (60, 60, 65), (140, 60, 120),
    (60, 130, 190), (160, 140, 60),
)  # fmt: skip
BRIGHT_SHIRTS: tuple[Colour, ...] = (
    (60, 60, 235),
    (230, 140, 30),
    (60, 200, 240),
    (180, 80, 235),
    (90, 210, 90),
)
TROUSERS: tuple[Colour, ...] = ((110, 70, 45), (60, 55, 50), (40, 40, 45), (90, 110, 130), (140, 120, 100))
SHOE: Colour = (30, 30, 32)
VEST: Colour = (20, 120, 255)
STRIPE: Colour = (210, 245, 245)
HELMET: Colour = (30, 215, 250)


@dataclass(frozen=True)
class Build:
    """Proportions of a standing figure, in parts of its height.

    Attributes:
        head: Radius of the head.
        hip: Height of the hips.
        shoulder: Half the width of the shoulders.
        limb: Thickness of a leg; an arm is a little thinner.
    """

    head: float
    hip: float
    shoulder: float
    limb: float


ADULT = Build(head=0.075, hip=0.47, shoulder=0.125, limb=0.085)
YOUNG = Build(head=0.125, hip=0.38, shoulder=0.14, limb=0.1)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """Picks a colour and varies its brightness."""
    return shade(colours[int(rng.integers(len(colours)))], rng.uniform(0.85, 1.15))


def _legs(pen: Pen, rng: np.random.Generator, build: Build, colour: Colour) -> None:
    stride = rng.uniform(0.03, 0.16)
    for side, gain in ((-1, 0.8), (1, 1.0)):
        knee = (side * stride * 0.7 + 0.02, build.hip * 0.5)
        foot = (side * stride, build.limb * 0.4)
        pen.line([(side * 0.035, build.hip), knee, foot], build.limb, shade(colour, gain))
        pen.line([foot, (foot[0] + 0.05, foot[1])], build.limb * 0.8, SHOE)


def _arm(pen: Pen, build: Build, side: float, swing: float, colours: tuple[Colour, Colour]) -> None:
    top = 1 - 2.2 * build.head
    elbow = (side * build.shoulder + swing * 0.4 + side * 0.03, top - 0.17)
    hand = (elbow[0] + swing * 0.6, top - 0.31)
    pen.line([(side * build.shoulder * 0.9, top - 0.03), elbow, hand], build.limb * 0.75, colours[0])
    pen.ellipse(*hand, build.limb * 0.4, build.limb * 0.4, colours[1])


def _torso(pen: Pen, build: Build, colour: Colour, hem: float = 0.0) -> None:
    top = 1 - 2.05 * build.head
    width = build.shoulder
    bottom = build.hip - 0.03 - hem
    pen.poly(
        [(-width, top - 0.03), (-width * 0.6, top), (width * 0.6, top), (width, top - 0.03),
         (width * (0.78 + 1.5 * hem), bottom), (-width * (0.78 + 1.5 * hem), bottom)], colour,
    )  # fmt: skip


def _head(pen: Pen, build: Build, skin: Colour, hair: Colour, long_hair: bool) -> None:
    radius = build.head
    centre = 1 - radius
    if long_hair:
        pen.rect(-radius, centre - 1.5 * radius, radius, centre, hair)
    pen.ellipse(0, centre, radius * 0.85, radius, skin)
    pen.ellipse(0, centre + 0.15 * radius, radius * 0.95, radius * 0.9, hair, -10, 190)


def _figure(pen: Pen, rng: np.random.Generator, build: Build, shirts: tuple[Colour, ...]) -> None:
    shirt, trousers, skin, hair = pick(rng, shirts), pick(rng, TROUSERS), pick(rng, SKINS), pick(rng, HAIRS)
    swing = rng.uniform(-0.12, 0.12)
    hem = rng.choice([0.0, 0.0, 0.0, 0.13])  # every fourth one wears a coat or a dress
    _arm(pen, build, -1, -swing, (shade(shirt, 0.75), skin))
    _legs(pen, rng, build, trousers)
    _torso(pen, build, shirt, hem)
    _arm(pen, build, 1, swing, (shade(shirt, 0.88), skin))
    _head(pen, build, skin, hair, long_hair=rng.random() < 0.35)


def draw_pedestrian(pen: Pen, rng: np.random.Generator) -> None:
    """A grown-up person, some with a bag."""
    _figure(pen, rng, ADULT, SHIRTS)
    if rng.random() < 0.3:
        pen.rect(0.1, 0.36, 0.22, 0.5, pick(rng, TROUSERS))


def draw_child(pen: Pen, rng: np.random.Generator) -> None:
    """A child: a larger head, shorter legs, brighter clothes, some with a school bag."""
    _figure(pen, rng, YOUNG, BRIGHT_SHIRTS)
    if rng.random() < 0.4:
        pen.ellipse(-0.15, 0.58, 0.09, 0.14, pick(rng, BRIGHT_SHIRTS))


def draw_worker(pen: Pen, rng: np.random.Generator) -> None:
    """A road worker in an orange vest with reflecting stripes and a yellow helmet, some with a shovel."""
    skin, trousers = pick(rng, SKINS), pick(rng, ((140, 80, 40), (20, 110, 235)))
    vest = shade(VEST, rng.uniform(0.9, 1.05))
    swing = rng.uniform(-0.1, 0.14)
    _arm(pen, ADULT, -1, -swing, (shade(vest, 0.75), skin))
    _legs(pen, rng, ADULT, trousers)
    _torso(pen, ADULT, vest, 0.03)
    for height in (0.55, 0.68):
        pen.rect(-0.11, height, 0.11, height + 0.035, STRIPE)
    _arm(pen, ADULT, 1, swing, (shade(vest, 0.88), skin))
    pen.ellipse(0, 0.915, 0.065, 0.075, skin)
    pen.ellipse(0, 0.925, 0.085, 0.08, HELMET, 0, 180)
    pen.rect(-0.1, 0.915, 0.1, 0.935, HELMET)
    if rng.random() < 0.4:
        pen.line([(0.22, 0.0), (0.17, 0.75)], 0.025, (70, 110, 150))
        pen.rect(0.17, 0.0, 0.27, 0.11, (120, 120, 120))


def draw_cyclist_side(pen: Pen, rng: np.random.Generator) -> None:
    """A person on a bicycle, seen from the side."""
    shirt, skin, trousers = pick(rng, SHIRTS + BRIGHT_SHIRTS), pick(rng, SKINS), pick(rng, TROUSERS)
    frame = pick(rng, BRIGHT_SHIRTS + TROUSERS)
    hip, hand, pedal = (-0.14, 0.53), (0.24, 0.56), (0.0, 0.2)
    for x in (-0.31, 0.31):
        pen.ring(x, 0.21, 0.19, 0.04, (35, 35, 38))
    pen.line([(-0.31, 0.21), pedal, (0.2, 0.44), (-0.11, 0.42), (-0.31, 0.21)], 0.03, frame)
    pen.line([(-0.11, 0.42), pedal], 0.03, frame)
    pen.line([(0.31, 0.21), (0.22, 0.54)], 0.03, frame)
    turn = rng.uniform(0, 2 * np.pi)
    for angle, gain in ((turn + np.pi, 0.75), (turn, 1.0)):
        foot = (pedal[0] + 0.07 * np.cos(angle), pedal[1] + 0.07 * np.sin(angle))
        pen.line([hip, (0.1, 0.4 + 0.04 * np.sin(angle)), foot], 0.075, shade(trousers, gain))
    shoulder = (0.04 + rng.uniform(0, 0.05), 0.8)
    pen.line([hip, shoulder], 0.16, shirt)
    pen.line([shoulder, (0.16, 0.62), hand], 0.06, shade(shirt, 0.85))
    pen.ellipse(shoulder[0] + 0.06, 0.915, 0.068, 0.08, skin)
    pen.ellipse(shoulder[0] + 0.06, 0.93, 0.08, 0.07, pick(rng, BRIGHT_SHIRTS + HAIRS), 0, 180)


def draw_cyclist_front(pen: Pen, rng: np.random.Generator) -> None:
    """A person on a bicycle, seen from the front or from behind."""
    shirt, skin, trousers = pick(rng, SHIRTS + BRIGHT_SHIRTS), pick(rng, SKINS), pick(rng, TROUSERS)
    bend = rng.uniform(-0.06, 0.06)
    pen.line([(0, 0.03), (0, 0.4)], 0.06, (35, 35, 38))
    pen.line([(-0.12, 0.5), (-0.11, 0.34 + bend), (-0.07, 0.16 + bend)], 0.085, trousers)
    pen.line([(0.12, 0.5), (0.11, 0.34 - bend), (0.07, 0.16 - bend)], 0.085, shade(trousers, 0.8))
    pen.poly([(-0.14, 0.83), (0.14, 0.83), (0.11, 0.46), (-0.11, 0.46)], shirt)
    pen.line([(-0.22, 0.55), (0.22, 0.55)], 0.03, (70, 70, 75))
    for side in (-1, 1):
        pen.line([(side * 0.13, 0.8), (side * 0.2, 0.67), (side * 0.19, 0.56)], 0.06, shade(shirt, 0.85))
    pen.ellipse(0, 0.91, 0.07, 0.085, skin)
    pen.ellipse(0, 0.93, 0.085, 0.07, pick(rng, BRIGHT_SHIRTS + HAIRS), 0, 180)
