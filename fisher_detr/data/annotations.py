"""COCO-format annotation files: read once, checked as a whole, kept as columns."""

import dataclasses
import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from fisher_detr.files import read_json

logger = logging.getLogger(__name__)

# Boxes of real sets often stick out by a rounding error: up to this many pixels they are clipped.
TOLERANCE = 1.0

_ID = int | str
# Keys of each section and their types; sizes and boxes are checked on their own.
_REQUIRED = {
    "images": {"id": _ID, "file_name": str, "height": object, "width": object},
    "categories": {"id": _ID, "name": str},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": _ID, "bbox": object},
}


@dataclasses.dataclass(frozen=True)
class CocoAnnotations:
    """A checked annotation file with I images, K categories and N annotations.

    Columns instead of dicts: COCO's 860,000 annotations take 45 MB this way.

    Attributes:
        category_ids: data set ids, ascending; their positions are the contiguous class indices.
        category_names: one name for each category.
        supercategories: one name for each category, "" where the file gives none.
        image_ids: ascending.
        file_names: relative to the image root.
        sizes: height and width in pixels, `[I, 2]`.
        positions: of each annotation in the file's list, `[N]`.
        image_index: position of each annotation's image in `image_ids`, `[N]`, ascending.
        class_index: contiguous class index, `[N]`.
        boxes: xywh in pixels, inside the image, `[N, 4]` float64.
        crowd: whether the annotation is a crowd region, `[N]`.
    """

    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    supercategories: tuple[str, ...]
    image_ids: tuple[Any, ...]
    file_names: tuple[str, ...]
    sizes: np.ndarray
    positions: np.ndarray
    image_index: np.ndarray
    class_index: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


def read_annotations(path: str | os.PathLike, drop_bad_boxes: bool = False) -> CocoAnnotations:
    """Read and check a COCO-format annotation file.

    Args:
        path: the JSON file.
        drop_bad_boxes: leave out boxes that are empty, not finite or outside their image (COCO train2017 has
            two empty ones) with one log line, instead of refusing the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, not COCO, a reference to an unknown image or category, or a bad box.
    """
    return parse_annotations(read_json(path, "annotation file"), path, drop_bad_boxes)


def parse_annotations(content: Any, path: str | os.PathLike, drop_bad_boxes: bool = False) -> CocoAnnotations:
    """Check what is in an annotation file; see `read_annotations`.

    Args:
        content: of the file.
        path: of the file, for errors.
        drop_bad_boxes: see `read_annotations`.
    """
    try:
        return _parse(content, path, drop_bad_boxes)
    except ValueError as error:  # a name in the file may be of several lines
        raise ValueError(" ".join(str(error).splitlines())) from None


def _parse(content: Any, path: str | os.PathLike, drop_bad_boxes: bool) -> CocoAnnotations:
    _check_structure(content, path)
    categories = sorted(content["categories"], key=lambda category: _sort_key(category["id"]))
    images = sorted(content["images"], key=lambda image: _sort_key(image["id"]))
    image_position = {image["id"]: i for i, image in enumerate(images)}
    class_position = {category["id"]: i for i, category in enumerate(categories)}
    annotations = content["annotations"]
    _check_references(annotations, image_position, class_position, path)
    index = np.array([image_position[a["image_id"]] for a in annotations], dtype=np.int64)
    positions = np.argsort(index, kind="stable")
    annotations, image_index = [annotations[i] for i in positions], index[positions]

    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64).reshape(-1, 2)
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    clipped, problems = check_boxes(boxes, sizes[image_index])
    bad = np.flatnonzero(problems != "")
    if len(bad):
        _report_bad_boxes(
            [annotations[i] for i in bad], problems[bad], images, image_position, path, drop_bad_boxes
        )
    keep = problems == ""
    return CocoAnnotations(
        category_ids=tuple(category["id"] for category in categories),
        category_names=tuple(category["name"] for category in categories),
        supercategories=tuple(str(category.get("supercategory") or "") for category in categories),
        image_ids=tuple(image["id"] for image in images),
        file_names=tuple(image["file_name"] for image in images),
        sizes=sizes,
        positions=positions[keep],
        image_index=image_index[keep],
        class_index=np.array([class_position[a["category_id"]] for a in annotations], dtype=np.int64)[keep],
        boxes=clipped[keep],
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)[keep],
    )


def check_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to their images and say what is wrong with those that cannot be mended.

    Args:
        boxes: xywh in pixels, `[N, 4]`.
        sizes: height and width of each box's image in pixels, `[N, 2]`.

    Returns:
        The clipped boxes, xywh `[N, 4]`, and for each the problem as text, "" where there is none, `[N]`.
    """
    limits = sizes[:, ::-1]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite ends are outside the image
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    clipped_low, clipped_high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    sides = clipped_high - clipped_low
    problems = np.select(
        [
            ~np.isfinite(boxes).all(axis=1),
            (boxes[:, 2:] <= 0).any(axis=1),
            (low < -TOLERANCE).any(axis=1)
            | (high > limits + TOLERANCE).any(axis=1)
            | (sides <= 0).any(axis=1),
        ],
        ["is not finite", "is empty", "reaches outside the image"],
        default="",
    )
    # A box that needs no clipping stays as it is written: x + w - x would round.
    inside = (low == clipped_low) & (high == clipped_high)
    return np.concatenate([clipped_low, np.where(inside, boxes[:, 2:], sides)], axis=1), problems


def panoptic_error(path: str | os.PathLike) -> str:
    """What to say of a panoptic file where instances are expected."""
    return (
        f"annotation file {path} is a panoptic file (its annotations are segments), expected one of "
        "instances: name instances_*.json, or make boxes of things and stuff with "
        "python datasets/prepare_coco_panoptic.py"
    )


def _check_structure(content: Any, path: str | os.PathLike) -> None:
    if not isinstance(content, dict):
        raise ValueError(
            f"annotation file {path} is not COCO: it holds a {type(content).__name__}, expected an object"
        )
    for section, keys in _REQUIRED.items():
        entries = content.get(section)
        if not isinstance(entries, list):
            raise ValueError(
                f"annotation file {path} is not COCO: no list {section!r} (has {sorted(content)}), "
                f"expected {sorted(_REQUIRED)}"
            )
        for entry in entries:
            if isinstance(entry, dict) and "segments_info" in entry:
                raise ValueError(panoptic_error(path))
            if not isinstance(entry, dict) or any(key not in entry for key in keys):
                raise ValueError(
                    f"annotation file {path} is not COCO: entry {_shorten(entry)} of {section!r} "
                    f"needs {', '.join(keys)}"
                )
            _check_types(entry, keys, section, path)
        _check_unique([entry["id"] for entry in entries], f"id in {section!r}", path)
    if not content["categories"]:
        raise ValueError(f"annotation file {path} has no categories: nothing can be detected")
    _check_unique([category["name"] for category in content["categories"]], "category name", path)
    for image in content["images"]:
        if not all(_is_length(image[side]) for side in ("height", "width")):
            raise ValueError(
                f"annotation file {path}: image {image['id']} ({image['file_name']}) has height "
                f"{image['height']!r} and width {image['width']!r}, expected whole pixels above 0"
            )


def _check_types(entry: dict[str, Any], types: dict[str, Any], section: str, path: str | os.PathLike) -> None:
    for key, kind in types.items():
        value = entry[key]
        if not isinstance(value, kind) or (kind is _ID and isinstance(value, bool)):
            raise ValueError(
                f"annotation file {path} is not COCO: {key} {_shorten(repr(value))} in {section!r}, "
                f"expected {'text' if kind is str else 'a whole number or text'}"
            )


def _check_unique(values: list[Any], what: str, path: str | os.PathLike) -> None:
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        twice = next(value for value in values if value in seen or seen.add(value))
        raise ValueError(f"annotation file {path}: {what} {twice!r} appears more than once")


def _check_references(
    annotations: Iterable[dict[str, Any]],
    images: dict[Any, int],
    classes: dict[Any, int],
    path: str | os.PathLike,
) -> None:
    for annotation in annotations:
        where = f"annotation file {path}: annotation {annotation['id']}"
        if annotation["image_id"] not in images:
            raise ValueError(
                f"{where} refers to the unknown image {annotation['image_id']}: add it to 'images'"
            )
        if annotation["category_id"] not in classes:
            raise ValueError(
                f"{where} of image {annotation['image_id']} refers to the unknown category "
                f"{annotation['category_id']}: expected one of {_shorten(list(classes))}"
            )
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise ValueError(
                f"{where} of image {annotation['image_id']} has bbox {_shorten(box)}, "
                f"expected four numbers x, y, w, h"
            )


def _report_bad_boxes(
    annotations: list[dict[str, Any]],
    problems: np.ndarray,
    images: list[dict[str, Any]],
    image_position: dict[Any, int],
    path: str | os.PathLike,
    drop: bool,
) -> None:
    first = annotations[0]
    image = images[image_position[first["image_id"]]]
    more = f" ({len(annotations) - 1} more like it)" if len(annotations) > 1 else ""
    message = (
        f"annotation file {path}: annotation {first['id']} of image {image['id']} ({image['file_name']}, "
        f"{image['width']} x {image['height']}): box [x, y, w, h] = {first['bbox']} {problems[0]}{more}"
    )
    if not drop:
        raise ValueError(f"{message}: repair or remove it")
    logger.warning("%s: left out", message)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: Any) -> bool:
    """Whole numbers of hundreds of digits, which JSON has, are none here."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def _sort_key(id_: Any) -> tuple[bool, Any]:
    return isinstance(id_, str), id_


def _shorten(value: Any, length: int = 120) -> str:
    text = str(value)
    return text if len(text) <= length else text[:length] + "..."
