"""Chooses the objects of a picture, draws each on its patch and decides what hides what."""

from dataclasses import dataclass

import numpy as np

from .canvas import SUPERSAMPLING, Pen, finish_patch
from .categories import CATEGORIES, Category, View, Zone
from .scene import HEIGHT, WIDTH, Street

MIN_OBJECTS = 2
MAX_OBJECTS = 10
MIN_SIZE = 10.0
MAX_SIZE = 90.0
"""Shortest and longest longer side of an annotated box in pixels."""
MIN_VISIBLE = 0.35
"""An object of which less can be seen, hidden or outside the image, is left out of the picture altogether."""

_COUNT_WEIGHTS = {3: 0.1, 4: 0.14, 5: 0.18, 6: 0.18, 7: 0.15, 8: 0.11, 9: 0.08, 10: 0.06}
_SIZE_SPREAD = 0.38  # standard deviation of the logarithm of the size
_HEIGHT_SPREAD = 0.1  # relative standard deviation of height among objects of a category
_DEPTHS = (14.0, 112.0)  # pixels below the horizon between which objects stand
_TRIES = 8
_CROWDED = 0.55  # a place is given up for another one where this share of the nominal box is taken


@dataclass
class Placed:
    """An object that stands in a picture.

    Attributes:
        category: Its index in `CATEGORIES`.
        u: Depth in pixels below the horizon.
        foot: Column and row in pixels of the ground below it.
        corner: Column and row of the patch's upper left corner, in pixels of the canvas.
        pen: The pen with the finished patch.
        visible: Share of the object that is seen.
        box: The box around what is seen: left, upper, right, lower edge in pixels.
    """

    category: int
    u: float
    foot: tuple[float, float]
    corner: tuple[int, int]
    pen: Pen
    visible: float = 0.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def overlap(corner: tuple[int, int], patch: tuple[int, ...], canvas: tuple[int, ...]) -> tuple[tuple, tuple]:
    """Where a patch lies on a canvas.

    Args:
        corner: Column and row of the patch's upper left corner on the canvas.
        patch: Shape of the patch.
        canvas: Shape of the canvas.

    Returns:
        Row and column slices of the canvas, then those of the patch, of the part they share (it may be
        empty).
    """
    (left, top), (rows, columns) = corner, patch[:2]
    y0, y1 = min(max(0, top), canvas[0]), min(max(0, top + rows), canvas[0])
    x0, x1 = min(max(0, left), canvas[1]), min(max(0, left + columns), canvas[1])
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _lateral(zone: Zone, street: Street, rng: np.random.Generator) -> float:
    """A lateral position in camera heights."""
    if zone is Zone.ANYWHERE:
        zone = Zone.PAVEMENT if rng.random() < 0.65 else Zone.ROAD
    if zone is Zone.ROAD:
        return street.road * rng.uniform(-0.88, 0.88)
    share = rng.uniform(0.12, 0.3) if zone is Zone.KERB else rng.uniform(0.15, 0.9)
    return (1 if rng.random() < 0.5 else -1) * (street.road + share * street.pavement)


def _nominal_box(
    view: View, category: Category, street: Street, x: float, u: float, lift: float
) -> np.ndarray:
    """Left, upper, right and lower edge of an object as the table describes it."""
    column, low = street.project(x, lift, u)
    half, high = view.height * view.aspect * u / 2, street.project(x, lift + view.height, u)[1]
    return np.array([column - half, high, column + half, low])


def _taken(box: np.ndarray, others: list[np.ndarray]) -> float:
    """The largest share of a box, or of another one, in which both overlap; 1 if half of it is outside."""
    size = box[2:] - box[:2]
    seen = np.minimum(box[2:], (WIDTH, HEIGHT)) - np.maximum(box[:2], 0)
    if (seen < 0.5 * size).any():
        return 1.0
    worst = 0.0
    for other in others:
        shared = np.prod(np.maximum(0, np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])))
        worst = max(worst, shared / min(np.prod(size), np.prod(other[2:] - other[:2])))
    return worst


def _place(number: int, street: Street, boxes: list[np.ndarray], rng: np.random.Generator) -> Placed:
    """Finds a place for one object of a category, the least crowded of a few, and draws it there."""
    category = CATEGORIES[number]
    view = category.views[int(rng.integers(len(category.views)))]
    scale = 1 + _HEIGHT_SPREAD * np.clip(rng.standard_normal(), -2, 2)
    best = None
    for _ in range(_TRIES):
        size = category.size * np.exp(_SIZE_SPREAD * rng.standard_normal())
        u = float(np.clip(size / (view.longest * scale), *_DEPTHS))
        lift = rng.uniform(*category.elevation)
        x = _lateral(category.zone, street, rng)
        box = _nominal_box(view, category, street, x, u, lift)
        taken = _taken(box, boxes)
        if best is None or taken < best[0]:
            best = (taken, x, u, lift, box)
        if taken < _CROWDED * rng.random():
            break
    _, x, u, lift, box = best
    boxes.append(box)
    return _draw(number, view, street, (x, u, lift), float(scale), rng)


def _draw(
    number: int,
    view: View,
    street: Street,
    place: tuple[float, float, float],
    scale: float,
    rng: np.random.Generator,
) -> Placed:
    """Draws an object at lateral position, depth and clearance ``place``."""
    x, u, lift = place
    mirror = CATEGORIES[number].mirrored and rng.random() < 0.5
    pen = Pen(view.height * scale * u * SUPERSAMPLING, view.aspect, mirror)
    view.draw(pen, rng)
    light = street.light
    haze = light.haze * max(0.0, 1 - u / 60) * 0.6
    finish_patch(pen.patch, light.gain * rng.uniform(0.85, 1.15), light.slope, haze, light.sky_low)
    column, row = street.project(x, lift, u)
    corner = (round(column * SUPERSAMPLING - pen.origin[0]), round(row * SUPERSAMPLING - pen.origin[1]))
    return Placed(number, u, street.project(x, 0.0, u), corner, pen)


def _see(placed: Placed, hidden: np.ndarray) -> np.ndarray | None:
    """Sets what is seen of an object behind the ``hidden`` part of the canvas; None if it is too little."""
    outer, inner = overlap(placed.corner, placed.pen.patch.shape, hidden.shape)
    solid = placed.pen.patch[:, :, 3] > 0
    seen = solid[inner] & ~hidden[outer]
    placed.visible = float(np.count_nonzero(seen)) / max(1, np.count_nonzero(solid))
    if placed.visible < MIN_VISIBLE:
        return None
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    top, left = outer[0].start, outer[1].start
    edges = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    placed.box = tuple(float(edge) / SUPERSAMPLING for edge in edges)
    longest = max(placed.box[2] - placed.box[0], placed.box[3] - placed.box[1])
    return seen if MIN_SIZE <= longest <= MAX_SIZE else None


def _visible_objects(objects: list[Placed]) -> list[Placed]:
    """Goes from near to far and keeps what is seen well enough; returns it from far to near."""
    hidden = np.zeros((HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING), bool)
    kept = []
    for placed in sorted(objects, key=lambda item: -item.u):
        seen = _see(placed, hidden)
        if seen is not None:
            outer, _ = overlap(placed.corner, placed.pen.patch.shape, hidden.shape)
            hidden[outer] |= seen
            kept.append(placed)
    return kept[::-1]


def place_objects(street: Street, rng: np.random.Generator) -> list[Placed]:
    """Draws the objects of a street, from far to near.

    Returns:
        `MIN_OBJECTS` to `MAX_OBJECTS` objects. Each is seen to at least `MIN_VISIBLE`, with a box around
        what is seen whose longer side lies between `MIN_SIZE` and `MAX_SIZE`.
    """
    weights = np.array([category.weight for category in CATEGORIES], dtype=np.float64)
    count = int(rng.choice(list(_COUNT_WEIGHTS), p=list(_COUNT_WEIGHTS.values())))
    numbers = rng.choice(len(CATEGORIES), size=count, p=weights / weights.sum())
    while True:
        boxes: list[np.ndarray] = []
        kept = _visible_objects([_place(int(number), street, boxes, rng) for number in numbers])
        if len(kept) >= MIN_OBJECTS:
            return kept
