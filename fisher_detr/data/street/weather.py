"""Light and weather: day, dusk and rain, and what each does to the finished picture."""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from .canvas import Colour


class Weather(Enum):
    """The three conditions under which a street is seen."""

    DAY = "day"
    DUSK = "dusk"
    RAIN = "rain"


PROBABILITIES = {Weather.DAY: 0.6, Weather.DUSK: 0.2, Weather.RAIN: 0.2}


@dataclass(frozen=True)
class Light:
    """How a scene is lit; colours are blue, green, red from 0 to 255.

    Attributes:
        gain: Gain of the three channels of everything that does not shine itself.
        sky_top: Colour of the sky at the upper edge.
        sky_low: Colour of the sky at the horizon; also the colour of haze.
        haze: Share of haze in an object at the horizon.
        glow: Strength of lamps, from 0 to 1.
        shadow: Darkness of the shadow below an object, from 0 to 1.
        slope: Relative difference of brightness between the left and right side of an object.
    """

    gain: np.ndarray
    sky_top: Colour
    sky_low: Colour
    haze: float
    glow: float
    shadow: float
    slope: float


_LIGHTS = {
    Weather.DAY: ((1.0, 1.0, 1.0), (225, 175, 115), (245, 232, 215), 0.25, 0.0, 0.45),
    Weather.DUSK: ((0.72, 0.6, 0.64), (115, 65, 60), (105, 150, 240), 0.25, 0.8, 0.3),
    Weather.RAIN: ((0.82, 0.79, 0.76), (150, 140, 132), (188, 182, 176), 0.5, 0.35, 0.2),
}


def sample_weather(rng: np.random.Generator) -> Weather:
    """Draws the weather of one picture."""
    return list(PROBABILITIES)[int(rng.choice(len(PROBABILITIES), p=list(PROBABILITIES.values())))]


def sample_light(weather: Weather, rng: np.random.Generator) -> Light:
    """Draws the light of one picture: that of the weather, a little brighter or darker, from one side."""
    gain, sky_top, sky_low, haze, glow, shadow = _LIGHTS[weather]
    level = rng.uniform(0.88, 1.1)
    vary = rng.uniform(0.92, 1.05, size=3)
    return Light(
        gain=np.asarray(gain) * level,
        sky_top=tuple(float(c) for c in np.asarray(sky_top) * vary),
        sky_low=tuple(float(c) for c in np.minimum(np.asarray(sky_low) * vary, 255)),
        haze=haze * rng.uniform(0.5, 1.2),
        glow=glow,
        shadow=shadow,
        slope=rng.uniform(-0.35, 0.35),
    )


def add_glow(canvas: np.ndarray, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
    """Adds the glow of a lamp to a BGR canvas in place; position and radius in pixels of the canvas."""
    reach = max(2, round(radius))
    x0, y0 = max(0, round(x) - reach), max(0, round(y) - reach)
    x1, y1 = min(canvas.shape[1], round(x) + reach), min(canvas.shape[0], round(y) + reach)
    if x0 >= x1 or y0 >= y1:
        return
    distance = np.hypot(np.arange(x0, x1)[None, :] - x, np.arange(y0, y1)[:, None] - y) / reach
    light = strength * np.maximum(0.0, 1.0 - distance) ** 2
    region = canvas[y0:y1, x0:x1]
    region[:] = np.minimum(255.0, region + light[:, :, None] * np.asarray(colour)).astype(np.uint8)


def _add_rain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws slanting streaks over a float BGR image."""
    streaks = np.zeros(image.shape[:2], np.uint8)
    height, width = streaks.shape
    slant = rng.uniform(-0.35, 0.35)
    for _ in range(int(rng.integers(60, 130))):
        x, y = rng.uniform(-10, width + 10), rng.uniform(-10, height)
        length = rng.uniform(5, 14)
        end = (round(x + slant * length), round(y + length))
        cv2.line(streaks, (round(x), round(y)), end, int(rng.integers(90, 200)), 1, cv2.LINE_AA)
    share = 0.4 * streaks.astype(np.float32)[:, :, None] / 255
    return image * (1 - share) + 225 * share


def finish_image(image: np.ndarray, weather: Weather, rng: np.random.Generator) -> np.ndarray:
    """Adds what the air and the camera add: rain, a little blur, contrast and noise.

    Args:
        image: BGR image, uint8.
        weather: The weather.
        rng: Source of randomness.

    Returns:
        BGR image of the same size, uint8.
    """
    picture = image.astype(np.float32)
    if weather is Weather.RAIN:
        picture = _add_rain(picture, rng)
    if rng.random() < 0.4:
        picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.3, 0.7))
    contrast = rng.uniform(0.88, 1.1)
    picture = (picture - 118) * contrast + 118 + rng.uniform(-8, 8)
    picture += rng.uniform(1.5, 4.5) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)
