"""A pen that draws one object onto its own transparent patch.

Objects are drawn in their own units: the origin is the middle of the base, ``x`` points right, ``y``
points up and the nominal height of the object is 1. So a drawing function does not know how large, where
or how bright its object is.
"""

import math

import cv2
import numpy as np

SUPERSAMPLING = 3
"""Pixels drawn per pixel of the final image, along each axis; averaging them smooths the edges."""

_SHIFT = 4  # fractional bits of the coordinates that OpenCV gets
_MARGIN = 0.25  # free space around the nominal extent, in object heights, for whatever sticks out
_ELLIPSE_POINTS = 24
_OUTLINE_GAIN = 0.62  # brightness of the contour that sets an object off from what is behind it

Colour = tuple[float, float, float]
"""Blue, green, red, each from 0 to 255."""

_BLACK: Colour = (0.0, 0.0, 0.0)


def shade(colour: Colour, gain: float) -> Colour:
    """Multiplies a colour by a gain and clips it to the valid range."""
    return tuple(min(255.0, max(0.0, gain * channel)) for channel in colour)


def ellipse_points(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0
) -> np.ndarray:
    """Points on an elliptic arc, angles in degrees counter-clockwise; an array of shape (points, 2)."""
    angles = np.radians(np.linspace(start, stop, _ELLIPSE_POINTS))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def fill(canvas: np.ndarray, points: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fills a polygon whose corners, an array (points, 2), are given in (fractional) pixels of it."""
    fixed = np.round(np.asarray(points, dtype=np.float64) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], colour, cv2.LINE_8, _SHIFT)


class Pen:
    """Draws in object units onto a BGRA patch.

    Args:
        height: Pixels (of the patch) per object height.
        aspect: Nominal width of the object divided by its height.
        mirror: Whether left and right are swapped.
    """

    def __init__(self, height: float, aspect: float, mirror: bool = False):
        self.scale = float(height)
        margin = math.ceil(_MARGIN * height) + 2
        rows = math.ceil(height) + 2 * margin
        columns = math.ceil(aspect * height) + 2 * margin
        self.patch = np.zeros((rows, columns, 4), np.uint8)
        self.origin = (columns / 2.0, float(rows - margin))
        self.glows: list[tuple[float, float, float, Colour]] = []
        self._side = -1.0 if mirror else 1.0

    def to_pixels(self, points: np.ndarray | list) -> np.ndarray:
        """Converts points from object units to pixels of the patch."""
        points = np.asarray(points, dtype=np.float64)
        return points * (self._side * self.scale, -self.scale) + self.origin

    def poly(self, points: np.ndarray | list, colour: Colour) -> None:
        """Fills a polygon."""
        fill(self.patch, self.to_pixels(points), (*colour, 255))

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fills an upright rectangle given by two opposite corners."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        start: float = 0.0,
        stop: float = 360.0,
    ) -> None:
        """Fills an ellipse, or the part of it between two angles in degrees."""
        self.poly(ellipse_points(x, y, rx, ry, start, stop), colour)

    def line(self, points: list, width: float, colour: Colour) -> None:
        """Draws a polyline of the given width with round ends."""
        fixed = np.round(self.to_pixels(points) * (1 << _SHIFT)).astype(np.int32)
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.patch, [fixed], False, (*colour, 255), thickness, cv2.LINE_8, _SHIFT)

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        """Draws a circle that is not filled."""
        self.line(ellipse_points(x, y, radius, radius), width, colour)

    def glow(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Notes a source of light; it is seen at dusk and in rain only."""
        column, row = self.to_pixels([(x, y)])[0]
        self.glows.append((float(column), float(row), radius * self.scale, colour))


def finish_patch(
    patch: np.ndarray, gain: np.ndarray, slope: float, haze: float = 0.0, sky: Colour = _BLACK
) -> None:
    """Lights a patch in place: overall gain, a brighter top, one brighter side, a dark contour and haze.

    Args:
        patch: BGRA patch.
        gain: Gain of the blue, green and red channel.
        slope: Relative difference of brightness between right and left edge.
        haze: Share of the colour of the sky, from 0 to 1.
        sky: Colour of the sky.
    """
    rows, columns = patch.shape[:2]
    alpha = patch[:, :, 3]
    vertical = np.linspace(1.08, 0.88, rows, dtype=np.float32)[:, None]
    horizontal = np.linspace(1 - slope / 2, 1 + slope / 2, columns, dtype=np.float32)[None, :]
    light = vertical * horizontal
    inner = cv2.erode(alpha, np.ones((3, 3), np.uint8))
    light[inner == 0] *= _OUTLINE_GAIN
    lit = patch[:, :, :3] * (light[:, :, None] * gain.astype(np.float32))
    np.minimum(lit, 255.0, out=lit)
    patch[:, :, :3] = lit * np.float32(1 - haze) + np.float32(sky) * np.float32(haze)
