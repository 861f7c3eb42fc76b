"""Categories and super-categories of COCO, COCO Panoptic and Cityscapes, as in their official files."""

from typing import Any

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES

# The ids of COCO's things grow with the super-category: the last id of each.
_LAST_THING = {
    "person": 1,
    "vehicle": 9,
    "outdoor": 15,
    "animal": 25,
    "accessory": 33,
    "sports": 43,
    "kitchen": 51,
    "food": 61,
    "furniture": 71,
    "electronic": 77,
    "appliance": 83,
    "indoor": 91,
}
_STUFF = {
    "textile": (92, 93, 109, 141, 168, 200),
    "building": (95, 128, 151, 166, 197),
    "raw-material": (100, 195),
    "furniture-stuff": (107, 112, 130, 133, 156, 161, 188, 189),
    "floor": (118, 190),
    "plant": (119, 184, 193),
    "food-stuff": (122, 196),
    "ground": (125, 144, 145, 147, 149, 154, 159, 191, 194),
    "structural": (138, 185),
    "water": (148, 155, 178),
    "wall": (171, 175, 176, 177, 199),
    "window": (180, 181),
    "solid": (192, 198),
    "ceiling": (186,),
    "sky": (187,),
}
_STUFF_GROUP = {id_: group for group, ids in _STUFF.items() for id_ in ids}
_HUMAN = ("person", "rider")


def coco_categories() -> list[dict[str, Any]]:
    """The 80 categories of COCO detection: id, name and one of 12 super-categories, ascending ids."""
    return [
        {key: category[key] for key in ("id", "name", "supercategory")}
        for category in coco_panoptic_categories()
        if category["isthing"]
    ]


def coco_panoptic_categories() -> list[dict[str, Any]]:
    """The 133 categories of COCO Panoptic, 80 things and 53 stuff, ascending ids.

    Each has `isthing`; stuff has 15 super-categories of its own.
    """
    return [
        {
            "id": category["id"],
            "name": category["name"],
            "supercategory": _thing_group(category["id"])
            if category["isthing"]
            else _STUFF_GROUP[category["id"]],
            "isthing": category["isthing"],
        }
        for category in COCO_CATEGORIES
    ]


def cityscapes_categories() -> list[dict[str, Any]]:
    """The 8 classes of Cityscapes with instances that are evaluated, with the official ids, ascending.

    Super-categories are the official categories: "human" is person and rider, "vehicle" the other six.
    """
    return [
        {
            "id": category["id"],
            "name": category["name"],
            "supercategory": "human" if category["name"] in _HUMAN else "vehicle",
        }
        for category in CITYSCAPES_CATEGORIES
        if category["isthing"]
    ]


def _thing_group(id_: int) -> str:
    return next(group for group, last in _LAST_THING.items() if id_ <= last)
