"""One picture of a street with its annotations, as a function of split, seed and index."""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import SUPERSAMPLING, ellipse_points, fill
from .categories import CATEGORIES
from .placement import Placed, overlap, place_objects
from .scene import HEIGHT, WIDTH, Street, paint_background, sample_street
from .weather import Weather, add_glow, finish_image

SPLITS = {"train": 1, "val": 2, "test": 3}
"""Number that stands for each split in the seed of a picture; fixed for ever."""

_POLE = (118, 120, 118)
_BOX_DIGITS = 2


@dataclass(frozen=True)
class Picture:
    """A picture and what is in it.

    Attributes:
        image: BGR image of `HEIGHT` x `WIDTH`, uint8.
        annotations: COCO annotations without ``id`` and ``image_id``.
        weather: Day, dusk or rain.
    """

    image: np.ndarray
    annotations: list[dict]
    weather: Weather


def _shadow(canvas: np.ndarray, placed: Placed, street: Street) -> None:
    """Darkens the ground below an object."""
    outer, inner = overlap(placed.corner, placed.pen.patch.shape, canvas.shape)
    columns = np.flatnonzero((placed.pen.patch[inner][:, :, 3] > 0).any(axis=0))
    half = (columns[-1] - columns[0] + 1) / 2
    x = outer[1].start + (columns[-1] + columns[0] + 1) / 2
    y = placed.foot[1] * SUPERSAMPLING
    flat = min(0.22 * half, 0.05 * placed.u * SUPERSAMPLING) + 1
    mask = np.zeros(canvas.shape[:2], np.uint8)
    fill(mask, ellipse_points(x, y, half * 1.03, flat), (255,))
    top, bottom = max(0, int(y - flat) - 1), max(0, min(canvas.shape[0], int(y + flat) + 2))
    strip, dark = canvas[top:bottom], mask[top:bottom] > 0
    strip[dark] = (strip[dark] * (1 - street.light.shadow)).astype(np.uint8)


def _pole(canvas: np.ndarray, placed: Placed, street: Street) -> None:
    """Draws the pole between the ground and a sign or signal."""
    x, low = (SUPERSAMPLING * value for value in placed.foot)
    high = placed.corner[1] + placed.pen.origin[1] - 0.5 * placed.pen.scale
    half = max(1.0, 0.018 * placed.u * SUPERSAMPLING)
    colour = tuple(float(channel) for channel in np.asarray(_POLE) * street.light.gain)
    fill(canvas, np.array([(x - half, low), (x + half, low), (x + half, high), (x - half, high)]), colour)


def _mirror_in_wet_road(canvas: np.ndarray, placed: Placed) -> None:
    """Blends a faint upside-down copy of an object into the ground below it."""
    foot = round(placed.foot[1] * SUPERSAMPLING)
    upside_down = placed.pen.patch[: max(0, foot - placed.corner[1])][::-1]
    outer, inner = overlap((placed.corner[0], foot), upside_down.shape, canvas.shape)
    part = upside_down[inner]
    fade = np.linspace(0.3, 0.0, len(upside_down), dtype=np.float32)[inner[0], None, None] * (
        part[:, :, 3:] > 0
    )
    canvas[outer] = (canvas[outer] * (1 - fade) + part[:, :, :3] * fade).astype(np.uint8)


def _compose(canvas: np.ndarray, objects: list[Placed], street: Street) -> None:
    """Puts objects, sorted from far to near, onto the canvas in place."""
    for placed in objects:
        if CATEGORIES[placed.category].elevation[1] > 0:
            _pole(canvas, placed, street)
        else:
            _shadow(canvas, placed, street)
            if street.weather is Weather.RAIN:
                _mirror_in_wet_road(canvas, placed)
        outer, inner = overlap(placed.corner, placed.pen.patch.shape, canvas.shape)
        part = placed.pen.patch[inner]
        np.copyto(canvas[outer], part[:, :, :3], where=part[:, :, 3:] > 0)
        for x, y, radius, colour in placed.pen.glows if street.light.glow > 0 else ():
            centre = (placed.corner[0] + x, placed.corner[1] + y)
            add_glow(canvas, *centre, radius, colour, street.light.glow)


def _annotation(placed: Placed) -> dict:
    x0, y0, x1, y1 = placed.box
    width, height = round(x1 - x0, _BOX_DIGITS), round(y1 - y0, _BOX_DIGITS)
    return {
        "area": round(width * height, _BOX_DIGITS),
        "bbox": [round(x0, _BOX_DIGITS), round(y0, _BOX_DIGITS), width, height],
        "category_id": placed.category + 1,
        "iscrowd": 0,
        "visibility": round(placed.visible, _BOX_DIGITS),
    }


def generate_picture(split: str, seed: int, index: int) -> Picture:
    """Draws one picture; the same arguments always give the same picture.

    Args:
        split: One of `SPLITS`.
        seed: Seed of the whole set, 0 or more.
        index: Index of the picture in its split, from 0.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS[split], index]))
    street = sample_street(rng)
    canvas = paint_background(street, rng)
    objects = place_objects(street, rng)
    _compose(canvas, objects, street)
    image = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    image = finish_image(image, street.weather, rng)
    return Picture(image, [_annotation(placed) for placed in objects], street.weather)


def generate_image(split: str, seed: int, index: int) -> tuple[np.ndarray, list[dict]]:
    """Draws one picture.

    Args:
        split: ``train``, ``val`` or ``test``.
        seed: Seed of the whole set, 0 or more.
        index: Index of the picture in its split, from 0.

    Returns:
        The BGR image, uint8 of shape (160, 256, 3), and its COCO annotations without ``id`` and
        ``image_id``. A box (``bbox``: left, upper edge, width, height in pixels) encloses what is *seen*
        of an object, ``area`` is that of the box, and ``visibility`` says which share of the object is
        seen.
    """
    picture = generate_picture(split, seed, index)
    return picture.image, picture.annotations
