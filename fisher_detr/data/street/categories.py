"""The table of categories: what can stand in the street, how often, how large and where.

Heights are given in camera heights (about 2.5 m). An object whose base is ``u`` pixels below the horizon is
drawn ``height * u`` pixels high, so that size and place in the picture agree as they do in a photograph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from . import sprites_animal as animal
from . import sprites_obstacle as obstacle
from . import sprites_person as person
from . import sprites_roadside as roadside
from . import sprites_vehicle as vehicle
from .canvas import Pen

SUPERCATEGORIES = ("person", "vehicle", "sign", "light", "animal", "obstacle")


class Zone(Enum):
    """Where on the ground an object stands."""

    ROAD = "road"
    KERB = "kerb"
    PAVEMENT = "pavement"
    ANYWHERE = "anywhere"


@dataclass(frozen=True)
class View:
    """One way to draw a category.

    Attributes:
        draw: The drawing function.
        height: Height of the object in camera heights.
        aspect: Width divided by height.
    """

    draw: Callable[[Pen, np.random.Generator], None]
    height: float
    aspect: float

    @property
    def longest(self) -> float:
        """The longer side in camera heights."""
        return self.height * max(1.0, self.aspect)


@dataclass(frozen=True)
class Category:
    """A category of objects.

    Attributes:
        name: Its name; without ``-`` and without spaces.
        supercategory: One of `SUPERCATEGORIES`.
        weight: Relative frequency.
        size: Median of the longer side in pixels.
        zone: Where it stands.
        views: Equally likely ways to draw it.
        elevation: Lowest and highest clearance below it in camera heights; above 0 it hangs on a pole.
        mirrored: Whether it may be drawn mirrored (what bears writing may not).
    """

    name: str
    supercategory: str
    weight: float
    size: float
    zone: Zone
    views: tuple[View, ...]
    elevation: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = True


_PLATE = (0.75, 1.0)
_SIGNAL = (0.85, 1.2)

# Easily confused on purpose: pedestrian, child and worker; cyclist and motorcycle; car and van; truck, bus
# and van; stop, no_entry and speed_limit; dog, cat and deer.
CATEGORIES: tuple[Category, ...] = (
    Category("pedestrian", "person", 1750, 44, Zone.ANYWHERE, (View(person.draw_pedestrian, 0.68, 0.4),)),
    Category("child", "person", 520, 36, Zone.ANYWHERE, (View(person.draw_child, 0.48, 0.45),)),
    Category("cyclist", "person", 700, 46, Zone.ROAD, (
        View(person.draw_cyclist_side, 0.72, 1.02), View(person.draw_cyclist_front, 0.72, 0.45))),
    Category("worker", "person", 180, 46, Zone.ANYWHERE, (View(person.draw_worker, 0.69, 0.45),)),
    Category("car", "vehicle", 2500, 52, Zone.ROAD, (
        View(vehicle.draw_car_side, 0.58, 2.7), View(vehicle.draw_car_back, 0.6, 1.25),
        View(vehicle.draw_car_front, 0.6, 1.25))),
    Category("van", "vehicle", 750, 54, Zone.ROAD, (
        View(vehicle.draw_van_side, 0.86, 2.1), View(vehicle.draw_van_back, 0.86, 0.86))),
    Category("truck", "vehicle", 450, 60, Zone.ROAD, (
        View(vehicle.draw_truck_side, 1.08, 2.2), View(vehicle.draw_truck_back, 1.1, 0.86))),
    Category("bus", "vehicle", 330, 62, Zone.ROAD, (
        View(vehicle.draw_bus_side, 1.1, 2.5), View(vehicle.draw_bus_front, 1.12, 0.9))),
    Category("motorcycle", "vehicle", 300, 44, Zone.ROAD, (View(vehicle.draw_motorcycle, 0.46, 1.7),)),
    Category("stop", "sign", 420, 30, Zone.KERB, (View(roadside.draw_stop, 0.44, 1.0),), _PLATE, False),
    Category("no_entry", "sign", 220, 30, Zone.KERB, (View(roadside.draw_no_entry, 0.44, 1.0),), _PLATE),
    Category("speed_limit", "sign", 600, 30, Zone.KERB, (
        View(roadside.draw_speed_limit, 0.44, 1.0),), _PLATE, False),
    Category("yield", "sign", 260, 30, Zone.KERB, (View(roadside.draw_yield, 0.44, 1.14),), _PLATE),
    Category("traffic_light", "light", 950, 34, Zone.KERB, (
        View(roadside.draw_traffic_light, 0.6, 0.4),), _SIGNAL),
    Category("street_lamp", "light", 900, 62, Zone.KERB, (View(roadside.draw_street_lamp, 1.9, 0.35),)),
    Category("dog", "animal", 400, 32, Zone.ANYWHERE, (View(animal.draw_dog, 0.34, 1.45),)),
    Category("cat", "animal", 190, 29, Zone.ANYWHERE, (View(animal.draw_cat, 0.3, 1.35),)),
    Category("deer", "animal", 115, 42, Zone.ANYWHERE, (View(animal.draw_deer, 0.62, 0.9),)),
    Category("cone", "obstacle", 650, 30, Zone.ROAD, (View(obstacle.draw_cone, 0.38, 0.8),)),
    Category("barrier", "obstacle", 240, 44, Zone.ROAD, (View(obstacle.draw_barrier, 0.4, 1.8),)),
    Category("trash_bin", "obstacle", 500, 34, Zone.PAVEMENT, (View(obstacle.draw_trash_bin, 0.46, 0.78),)),
)  # fmt: skip


def categories() -> list[dict]:
    """The categories as COCO writes them: ``id`` (from 1), ``name`` and ``supercategory``."""
    return [
        {"id": number, "name": category.name, "supercategory": category.supercategory}
        for number, category in enumerate(CATEGORIES, start=1)
    ]
