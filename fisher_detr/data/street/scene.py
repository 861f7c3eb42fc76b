"""The street without its objects: sky, houses, trees, pavements and road in one-point perspective.

Lengths are in camera heights. A point at lateral position ``x`` (0 is straight ahead), height ``y`` above
the ground and depth ``u`` (the distance in pixels between the horizon and the ground there: large is
near) is seen at column ``vanish + x * u`` and row ``horizon + (1 - y) * u``.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import SUPERSAMPLING, Colour, ellipse_points, fill, shade
from .weather import Light, Weather, sample_light, sample_weather

HEIGHT = 160
WIDTH = 256
"""Size of an image in pixels."""

_NEAR = 260.0  # depth that lies well below the lower edge of the image
_FAR = 5.0  # depth where the row of houses ends

_FINEST = 1.2  # width in pixels of a house front below which its windows are left out

_WALLS: tuple[Colour, ...] = (
    (150, 175, 200), (120, 140, 185), (175, 190, 200), (140, 165, 150), (110, 120, 160), (185, 180, 175),
    (130, 160, 205),
)  # fmt: skip
_ROOFS: tuple[Colour, ...] = ((70, 80, 130), (80, 75, 75), (60, 70, 100))
_LEAVES: tuple[Colour, ...] = ((60, 115, 75), (55, 95, 60), (70, 130, 110), (60, 90, 90))
_ASPHALT: Colour = (98, 95, 93)
_PAVING: Colour = (158, 160, 162)
_KERB: Colour = (190, 192, 194)
_PAINT: Colour = (225, 228, 230)
_PANE: Colour = (120, 100, 85)
_LIT_PANE: Colour = (120, 205, 250)


@dataclass(frozen=True)
class Street:
    """Geometry and light of one picture; pixels of the final image, lateral lengths in camera heights.

    Attributes:
        horizon: Row of the horizon.
        vanish: Column of the vanishing point.
        road: Half the width of the road.
        pavement: Width of each pavement.
        weather: Day, dusk or rain.
        light: The light.
    """

    horizon: float
    vanish: float
    road: float
    pavement: float
    weather: Weather
    light: Light

    def project(self, x: float, y: float, u: float) -> tuple[float, float]:
        """Column and row in pixels of a point."""
        return self.vanish + x * u, self.horizon + (1 - y) * u


def sample_street(rng: np.random.Generator) -> Street:
    """Draws a street."""
    weather = sample_weather(rng)
    return Street(
        horizon=rng.uniform(50, 72),
        vanish=rng.uniform(0.32, 0.68) * WIDTH,
        road=rng.uniform(0.95, 1.5),
        pavement=rng.uniform(0.5, 0.85),
        weather=weather,
        light=sample_light(weather, rng),
    )


class _Painter:
    """Fills polygons given in the coordinates of a street, lit by its light."""

    def __init__(self, canvas: np.ndarray, street: Street):
        self.canvas = canvas
        self.street = street

    def lit(self, colour: Colour, u: float) -> Colour:
        """The colour under the light of the scene, with the haze of depth ``u``."""
        light = self.street.light
        haze = light.haze * max(0.0, 1 - u / 60)
        return tuple(
            min(255.0, c * g) * (1 - haze) + h * haze
            for c, g, h in zip(colour, light.gain, light.sky_low, strict=True)
        )

    def quad(self, corners: list[tuple[float, float, float]], colour: Colour, shining: bool = False) -> None:
        """Fills a polygon with corners (x, y, u); ``shining`` leaves out the light of the scene."""
        pixels = np.array([self.street.project(*corner) for corner in corners]) * SUPERSAMPLING
        fill(self.canvas, pixels, colour if shining else self.lit(colour, corners[0][2]))

    def ground(self, x0: float, x1: float, near: float, far: float, colour: Colour) -> None:
        """Fills the piece of ground between two lateral positions and two depths."""
        self.quad([(x0, 0, far), (x1, 0, far), (x1, 0, near), (x0, 0, near)], colour)


def _sky(canvas: np.ndarray, street: Street, rng: np.random.Generator) -> None:
    """Fills the canvas above the horizon with a gradient and clouds, and what is below it plainly."""
    light, rows = street.light, round(street.horizon * SUPERSAMPLING)
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    top, low = np.float32(light.sky_top), np.float32(light.sky_low)
    canvas[:rows] = (top * (1 - share) + low * share).astype(np.uint8)
    canvas[rows:] = np.asarray(shade(light.sky_low, 0.7), np.uint8)
    white = np.minimum(255, 0.35 * low + 0.65 * np.array([250, 250, 250]) * light.gain.mean())
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(0, WIDTH), rng.uniform(2, 0.7 * street.horizon)
        for _ in range(4):
            centre = np.array([x + rng.uniform(-14, 14), y + rng.uniform(-2.5, 2.5)]) * SUPERSAMPLING
            radii = np.array([rng.uniform(6, 15), rng.uniform(2, 4.5)]) * SUPERSAMPLING
            fill(canvas, ellipse_points(*centre, *radii), tuple(float(c) for c in white))


def _far_row(paint: _Painter, rng: np.random.Generator) -> None:
    """Closes the street at the horizon with far houses or a line of trees."""
    x = -40.0
    green = rng.random() < 0.5
    while x < 40.0:
        width, height = rng.uniform(2.0, 5.0), rng.uniform(1.6, 3.2)
        colour = _LEAVES[int(rng.integers(len(_LEAVES)))] if green else _WALLS[int(rng.integers(len(_WALLS)))]
        paint.quad([(x, 0, _FAR), (x + width, 0, _FAR), (x + width, height, _FAR), (x, height, _FAR)], colour)
        x += width


def _depths(near: float, far: float, parts: int) -> np.ndarray:
    """Depths that are equally spaced along the street (so their reciprocals are)."""
    return 1 / np.linspace(1 / near, 1 / far, parts + 1)


def _windows(
    paint: _Painter, x: float, height: float, edges: tuple[float, float], rng: np.random.Generator
) -> None:
    """Rows of windows and one door in a house front at lateral position ``x``."""
    if abs(x) * (edges[0] - edges[1]) < _FINEST:
        return
    columns, floors = int(rng.integers(2, 5)), max(1, round(height / 1.2))
    steps = _depths(*edges, 4 * columns)
    dusk = paint.street.weather is Weather.DUSK
    for floor in range(floors):
        low = (floor + 0.32) * height / floors
        high = (floor + 0.78) * height / floors
        for column in range(columns):
            near, far = steps[4 * column + 1], steps[4 * column + 3]
            shining = dusk and rng.random() < 0.4
            pane = shade(_LIT_PANE, 0.8) if shining else shade(_PANE, rng.uniform(0.7, 1.2))
            door = floor == 0 and column == columns // 2
            bottom, colour = (0.0, (60, 70, 95)) if door else (low, pane)
            corners = [(x, bottom, near), (x, bottom, far), (x, high, far), (x, high, near)]
            paint.quad(corners, colour, shining and not door)


def _house(paint: _Painter, x: float, edges: tuple[float, float], rng: np.random.Generator) -> None:
    near, far = edges
    wall = shade(_WALLS[int(rng.integers(len(_WALLS)))], rng.uniform(0.8, 1.1))
    height = rng.uniform(1.9, 4.2)
    depth = x * rng.uniform(1.8, 2.4)  # the front wall of the house, turned to the viewer, behind a gap
    paint.quad([(x, 0, near), (depth, 0, near), (depth, height, near), (x, height, near)], shade(wall, 0.72))
    paint.quad([(x, 0, near), (x, 0, far), (x, height, far), (x, height, near)], wall)
    roof = _ROOFS[int(rng.integers(len(_ROOFS)))]
    inner = x * 1.25
    ridge = height + rng.uniform(0.15, 0.7)
    paint.quad([(x, height, near), (x, height, far), (inner, ridge, far), (inner, ridge, near)], roof)
    _windows(paint, x, height, edges, rng)


def _tree(paint: _Painter, x: float, u: float, rng: np.random.Generator) -> None:
    leaves = shade(_LEAVES[int(rng.integers(len(_LEAVES)))], rng.uniform(0.8, 1.2))
    height, spread = rng.uniform(1.3, 2.2), rng.uniform(0.45, 0.7)
    paint.quad(
        [(x - 0.06, 0, u), (x + 0.06, 0, u), (x + 0.05, height, u), (x - 0.05, height, u)], (55, 70, 90)
    )
    for _ in range(9 if u > 15 else 4):
        dx, dy = rng.uniform(-0.7, 0.7) * spread, rng.uniform(-0.6, 0.6) * spread
        radius = spread * rng.uniform(0.35, 0.65)
        centre = np.array(paint.street.project(x + dx, height + 0.3 + dy, u)) * SUPERSAMPLING
        reach = radius * u * SUPERSAMPLING
        gain = 1.0 + 0.35 * dy / spread + rng.uniform(-0.08, 0.08)
        fill(paint.canvas, ellipse_points(*centre, reach, reach), paint.lit(shade(leaves, gain), u))


def _side(paint: _Painter, side: int, rng: np.random.Generator) -> None:
    """One row of houses, gardens and trees, from far to near; ``side`` is -1 (left) or 1."""
    x = side * (paint.street.road + paint.street.pavement)
    paint.ground(x, 30 * x, _NEAR, _FAR, _LEAVES[2])
    depths = _depths(_FAR, _NEAR, int(rng.integers(26, 36)))
    green = rng.uniform(0.1, 0.5)  # share of gardens
    for far, near in zip(depths[:-1], depths[1:], strict=True):
        if rng.random() >= green:
            _house(paint, x, (near, far), rng)
        elif far < 110:
            _tree(paint, x + side * rng.uniform(0.15, 0.6), (near * far) ** 0.5, rng)


def _markings(paint: _Painter, rng: np.random.Generator) -> None:
    """Centre line, edge lines and, in every fourth street, a pedestrian crossing."""
    road = paint.street.road
    dashes = _depths(_NEAR, 6.0, int(rng.integers(24, 40)))
    for near, far in zip(dashes[::2], dashes[1::2], strict=False):
        paint.ground(-0.03, 0.03, near, far, _PAINT)
    if rng.random() < 0.5:
        for x in (-0.92 * road, 0.92 * road):
            paint.ground(x - 0.02, x + 0.02, _NEAR, 6.0, _PAINT)
    if rng.random() < 0.25:
        near = rng.uniform(30, 90)
        for x in np.arange(-0.88 * road, 0.85 * road, 0.26):
            paint.ground(x, x + 0.14, near, near / 1.25, _PAINT)


def _ground(paint: _Painter, rng: np.random.Generator) -> None:
    """Road, kerbs and pavements."""
    road, pavement = paint.street.road, paint.street.pavement
    asphalt = shade(_ASPHALT, rng.uniform(0.8, 1.15))
    paving = shade(_PAVING, rng.uniform(0.88, 1.08))
    paint.ground(-road, road, _NEAR, 3.0, asphalt)
    for _ in range(int(rng.integers(1, 5))):
        x, u = rng.uniform(-0.9, 0.6) * road, rng.uniform(15, 100)
        paint.ground(
            x, x + rng.uniform(0.1, 0.5), u, u / rng.uniform(1.1, 1.5), shade(asphalt, rng.uniform(0.82, 1.1))
        )
    _markings(paint, rng)
    for side in (-1, 1):
        inner, outer = side * (road + 0.06), side * (road + pavement)
        paint.ground(inner, outer, _NEAR, 3.0, paving)
        for u in _depths(_NEAR, 12.0, 30):
            paint.ground(inner, outer, u, u * 0.988, shade(paving, 0.88))
        paint.ground(side * road, inner, _NEAR, 3.0, _KERB)
        paint.ground(side * (road - 0.05), side * road, _NEAR, 3.0, shade(asphalt, 0.8))


def _texture(canvas: np.ndarray, street: Street, rng: np.random.Generator) -> None:
    """Gives the ground a grain that is drawn out sideways, as perspective does."""
    top = round(street.horizon * SUPERSAMPLING) + 2
    rows, columns = (canvas.shape[0] - top + 1) // 2, canvas.shape[1] // 8
    grain = 5.0 * rng.standard_normal((rows, columns), dtype=np.float32)
    grain = cv2.resize(grain, (canvas.shape[1], canvas.shape[0] - top), interpolation=cv2.INTER_LINEAR)
    canvas[top:] = np.clip(canvas[top:] + grain[:, :, None], 0, 255).astype(np.uint8)


def paint_background(street: Street, rng: np.random.Generator) -> np.ndarray:
    """Paints the street.

    Args:
        street: Its geometry and light.
        rng: Source of randomness.

    Returns:
        BGR canvas, uint8, `SUPERSAMPLING` times as high and wide as the final image.
    """
    canvas = np.empty((HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING, 3), np.uint8)
    paint = _Painter(canvas, street)
    _sky(canvas, street, rng)
    _far_row(paint, rng)
    for side in (-1, 1):
        _side(paint, side, rng)
    _ground(paint, rng)
    _texture(canvas, street, rng)
    return canvas
