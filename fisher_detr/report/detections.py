"""Detections of several models on the same images, side by side, with the critical objects they miss."""

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from fisher_detr.structures import CategorySet

# Blue, green, red of OpenCV; from the Okabe-Ito palette, which colour-blind readers can tell apart.
FOUND = (115, 158, 0)
MISSED = (0, 94, 213)
OTHER = (200, 200, 200)
PAPER, INK = (255, 255, 255), (40, 40, 40)
WIDTH = 512  # pixels of a picture: wide enough for its labels
TITLE_HEIGHT = 34
GAP = 8


@dataclasses.dataclass(frozen=True)
class Boxes2D:
    """Boxes of one image: detections, or objects (with scores of 1).

    Attributes:
        boxes: [N, 4] xyxy in pixels.
        classes: [N] class indices.
        scores: [N] in [0, 1].
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def confident(self, threshold: float) -> "Boxes2D":
        """Those at or above a score."""
        keep = self.scores >= threshold
        return Boxes2D(self.boxes[keep], self.classes[keep], self.scores[keep])


def missed_objects(objects: Boxes2D, detections: Boxes2D, category_set: CategorySet) -> np.ndarray:
    """Which critical objects no detection of their class covers with an IoU of one half.

    Args:
        objects: N objects.
        detections: those that count.
        category_set: the critical set.

    Returns:
        [N] bool; False for objects that are not critical.
    """
    overlaps = _iou(objects.boxes, detections.boxes) >= 0.5
    found = (overlaps & (objects.classes[:, None] == detections.classes)).any(axis=1)
    return np.isin(objects.classes, category_set.indices) & ~found


def compare_detections(
    images: Sequence[np.ndarray],
    objects: Sequence[Boxes2D],
    detections: Mapping[str, Sequence[Boxes2D]],
    category_set: CategorySet,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw a row for each image and a column for each model.

    Args:
        images: RGB uint8 [H, W, 3], all of one size.
        objects: of each image.
        detections: by column title, of each image.
        category_set: its categories are drawn bold, and outlined in orange where they are missed.
        class_names: by class index.
        threshold: detections below this score are left out.

    Returns:
        BGR uint8 picture, as OpenCV writes it.
    """
    columns = [
        _column(title, images, objects, found, category_set, class_names, threshold)
        for title, found in detections.items()
    ]
    gap = np.full((columns[0].shape[0], GAP, 3), PAPER, np.uint8)
    return np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=1)


def draw_detections(
    image: np.ndarray,
    shown: Boxes2D,
    missed: np.ndarray,
    category_set: CategorySet,
    class_names: Sequence[str],
) -> np.ndarray:
    """Draw the detections of one image.

    Args:
        image: RGB uint8 [H, W, 3].
        shown: the detections; those of critical categories are bold, and have a label.
        missed: [N, 4] xyxy boxes of missed objects, outlined in orange.
        category_set: the critical set.
        class_names: by class index.

    Returns:
        BGR uint8 picture of 512 columns.
    """
    zoom = WIDTH / image.shape[1]
    interpolation = cv2.INTER_CUBIC if zoom > 1.0 else cv2.INTER_AREA
    size = (WIDTH, max(1, round(image.shape[0] * zoom)))
    picture = cv2.resize(image[:, :, ::-1], size, interpolation=interpolation)
    critical = np.isin(shown.classes, category_set.indices)
    for bold in (False, True):  # critical ones on top
        for box, label in zip(shown.boxes[critical == bold], shown.classes[critical == bold], strict=True):
            color, thickness = (FOUND, 2) if bold else (OTHER, 1)
            _box(picture, box * zoom, color, thickness, class_names[label] if bold else "")
    for box in missed:
        _box(picture, box * zoom, MISSED, 3, "missed")
    return picture


def _column(title, images, objects, found, category_set, class_names, threshold) -> np.ndarray:
    pictures, missed_total, critical_total = [], 0, 0
    for image, truth, raw in zip(images, objects, found, strict=True):
        shown = raw.confident(threshold)
        missed = missed_objects(truth, shown, category_set)
        pictures += [
            draw_detections(image, shown, truth.boxes[missed], category_set, class_names),
            np.full((GAP, WIDTH, 3), PAPER, np.uint8),
        ]
        missed_total += int(missed.sum())
        critical_total += int(np.isin(truth.classes, category_set.indices).sum())
    heading = f"{title}: {category_set.name}, {missed_total} of {critical_total} missed"
    return np.concatenate([_title(heading, pictures[0].shape[1]), *pictures[:-1]])


def _title(text: str, width: int) -> np.ndarray:
    strip = np.full((TITLE_HEIGHT, width, 3), PAPER, np.uint8)
    cv2.putText(strip, text, (4, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    return strip


def _box(picture: np.ndarray, box: np.ndarray, color: tuple, thickness: int, label: str) -> None:
    x0, y0, x1, y1 = np.round(box).astype(int).tolist()
    cv2.rectangle(picture, (x0, y0), (x1, y1), color, thickness, cv2.LINE_AA)
    if label:
        (width, height), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
        top = max(y0 - height - 6, 0)
        left = max(min(x0, picture.shape[1] - width - 5), 0)  # whole, also at the right edge
        cv2.rectangle(picture, (left, top), (left + width + 4, top + height + 6), color, cv2.FILLED)
        place = (left + 2, top + height + 2)
        cv2.putText(picture, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, PAPER, 1, cv2.LINE_AA)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union [N, M] of boxes xyxy."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (first, second)]
    return inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-9)
