"""What is seen of every instance of an image of Cityscapes, from its polygons.

As in the official ground truth, polygons are drawn in their order and later ones hide earlier ones. An
instance is what remains of its polygon: the box of its pixels, and their number as `area`; one that is hidden
completely is none. A group ("cargroup") is a crowd region of its class, each polygon one of its own. Deleted
objects and license plates are not drawn; what is drawn but is none of the eight classes only hides.
"""

import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from fisher_detr.data.categories import cityscapes_categories

_CATEGORY_IDS = {category["name"]: category["id"] for category in cityscapes_categories()}
# Labels without an id of their own are not drawn, the others hide what they cover.
_NOT_DRAWN = ("license plate",)
_LABELS = frozenset(
    [*_CATEGORY_IDS, *_NOT_DRAWN, "unlabeled", "ego vehicle", "rectification border", "out of roi", "static"]
    + ["dynamic", "ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence"]
    + ["guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation"]
    + ["terrain", "sky", "caravan", "trailer"]
)


def visible_instances(content: Any, path: str | os.PathLike) -> dict[str, Any]:
    """What is seen of the instances of one image.

    Args:
        content: of its polygon file.
        path: of the file, for errors.

    Returns:
        `height` and `width` in pixels and `annotations` in COCO's format: category_id, bbox (xywh in whole
        pixels), area (pixels), iscrowd.

    Raises:
        ValueError: the file is no polygon file of Cityscapes.
    """
    try:
        size = int(content["imgWidth"]), int(content["imgHeight"])
        objects = [(o["label"], o["polygon"], o.get("deleted", 0)) for o in content["objects"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"polygon file {path} is not of Cityscapes: expected imgWidth, imgHeight and objects, each with "
            "label and polygon"
        ) from None
    canvas = Image.new("I", size)
    drawer = ImageDraw.Draw(canvas)
    kinds: list[tuple[int, bool]] = []  # of each instance: category id, whether it is a group
    for label, polygon, deleted in objects:
        if deleted:
            continue
        name, group = _class_of(label, path)
        if name in _NOT_DRAWN:
            continue
        if name in _CATEGORY_IDS:
            kinds.append((_CATEGORY_IDS[name], group))
        _draw(drawer, polygon, len(kinds) if name in _CATEGORY_IDS else 0, label, path)
    return {"height": size[1], "width": size[0], "annotations": _boxes(np.asarray(canvas), kinds)}


def _boxes(pixels: np.ndarray, kinds: list[tuple[int, bool]]) -> list[dict[str, Any]]:
    """Boxes of the regions 1, 2, ... in an image of their numbers, `[H, W]`."""
    areas = np.bincount(pixels.ravel(), minlength=len(kinds) + 1)
    annotations = []
    for number, region in enumerate(ndimage.find_objects(pixels, len(kinds)), start=1):
        if region is None:
            continue
        rows, columns = region
        category, group = kinds[number - 1]
        annotations.append(
            {
                "category_id": category,
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "area": int(areas[number]),
                "iscrowd": int(group),
            }
        )
    return annotations


def _class_of(label: str, path: str | os.PathLike) -> tuple[str, bool]:
    """The class of a label, and whether it is a group of that class."""
    if label in _LABELS:
        return label, False
    name = label.removesuffix("group") if isinstance(label, str) else label
    if name not in _LABELS:
        raise ValueError(f"polygon file {path}: {label!r} is no label of Cityscapes")
    return name, True


def _draw(
    drawer: ImageDraw.ImageDraw, polygon: Any, number: int, label: str, path: str | os.PathLike
) -> None:
    try:
        drawer.polygon([(x, y) for x, y in polygon], fill=number)
    except (TypeError, ValueError):
        raise ValueError(
            f"polygon file {path}: a {label!r} has the polygon {str(polygon)[:80]}, expected points [x, y]"
        ) from None
