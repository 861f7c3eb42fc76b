"""Detections of all arms on some images, from the files that evaluations leave."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fisher_detr.files import read_json
from fisher_detr.report.arms import ReportArm
from fisher_detr.report.blocks import Block, Gallery, Missing, Picture, Section
from fisher_detr.report.commands import Commands
from fisher_detr.report.detections import Boxes2D, draw_detections, missed_objects
from fisher_detr.structures import CategorySet

THRESHOLD = 0.5  # of the scores that are shown
_QUALITY = 85  # of a JPEG
_DETECTIONS = "coco_instances_results.json"
_TO_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])  # xywh -> xyxy


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image, what is in it, and what each arm sees.

    Attributes:
        image: RGB uint8 [H, W, 3].
        objects: to be found.
        detections: by name of the arm.
    """

    image: np.ndarray
    objects: Boxes2D
    detections: Mapping[str, Boxes2D]


def target_set(arms: Sequence[ReportArm], name: str = "") -> CategorySet:
    """The critical set that is looked at: the named one, else that of a plan, else the first; else all.

    Raises:
        ValueError: no such set.
    """
    data = arms[0].evaluation
    if name and name not in data["sets"]:
        raise ValueError(
            f"critical set {name!r} was not evaluated: expected one of {', '.join(data['sets'])}"
        )
    chosen = name or next((x for x in map(_aim, arms) if x in data["sets"]), next(iter(data["sets"]), ""))
    ids = [category["id"] for category in data["categories"]]
    indices = sorted(ids.index(id_) for id_ in data["sets"][chosen]) if chosen else range(len(ids))
    return CategorySet(chosen or "all", tuple(indices), len(ids))


def read_samples(
    arms: Sequence[ReportArm],
    category_set: CategorySet,
    count: int,
    image_root: str | None = None,
    annotations: str | None = None,
) -> list[Sample]:
    """The images with the most critical objects.

    Args:
        arms: all of one data set.
        category_set: the critical set.
        count: how many images.
        image_root: folder of the images; None: where they were at the evaluation.
        annotations: the annotation file; None: as well.

    Raises:
        FileNotFoundError: a file is not there, or was not left.
    """
    data = arms[0].evaluation
    root, path = image_root or data.get("image_root"), annotations or data.get("annotations")
    if not root or not path:
        raise FileNotFoundError(f"the evaluation of {arms[0].name} does not tell where its images are")
    truth = read_json(path, "annotation file")
    index = {category["id"]: i for i, category in enumerate(data["categories"])}
    known = [x for x in truth["annotations"] if x["category_id"] in index and not x.get("iscrowd")]
    objects = _by_image(known)
    critical = {id_ for id_, i in index.items() if i in category_set.indices}
    counts = {image: sum(x["category_id"] in critical for x in found) for image, found in objects.items()}
    chosen = sorted(counts, key=lambda image: (-counts[image], image))[:count]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    wanted = set(chosen)
    found = {arm.name: _detections(arm, wanted) for arm in arms}
    return [
        Sample(
            _read(Path(root) / names[image]),
            _boxes(objects[image], index),
            {arm: _boxes(of_arm.get(image, []), index) for arm, of_arm in found.items()},
        )
        for image in chosen
    ]


def samples(
    arms: Sequence[ReportArm],
    commands: Commands,
    target: str = "",
    count: int = 4,
    image_root: str | None = None,
    annotations: str | None = None,
) -> Section:
    """Pictures side by side, critical misses outlined."""
    chosen, title = target_set(arms, target), "What it looks like"
    lead = (
        f"The images with the most objects of {chosen.name}. Bold boxes: detections of {chosen.name} with a "
        f"score of {THRESHOLD:g} or more; thin grey ones: of other categories. Orange: missed, no detection "
        "of its category covers the object with an IoU of one half."
    )
    drawn = [arm for arm in arms if (arm.folder / _DETECTIONS).is_file()]
    blocks: list[Block] = [
        Missing(f"No {_DETECTIONS} of {arm.name}.", commands.evaluation(arm))
        for arm in arms
        if arm not in drawn
    ]
    try:
        found = read_samples(drawn, chosen, count, image_root, annotations) if drawn else []
    except FileNotFoundError as error:
        return Section("samples", title, lead, [*blocks, Missing(f"{error}.", commands.report())])
    names = [category["name"] for category in arms[0].evaluation["categories"]]
    blocks += [Gallery([_picture(sample, arm.name, chosen, names) for arm in drawn]) for sample in found]
    return Section("samples", title, lead, blocks)


def _picture(sample: Sample, arm: str, chosen: CategorySet, names: Sequence[str]) -> Picture:
    shown = sample.detections[arm].confident(THRESHOLD)
    missed = missed_objects(sample.objects, shown, chosen)
    drawn = draw_detections(sample.image, shown, sample.objects.boxes[missed], chosen, names)
    content = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    critical = int(np.isin(sample.objects.classes, chosen.indices).sum())
    return Picture(content, f"{arm}: {int(missed.sum())} of {critical} missed")


def _aim(arm: ReportArm) -> str:
    """The critical set that a plan is for; empty: none."""
    if arm.allocation is None:
        return ""
    origin = arm.allocation.meta.get("sensitivity") or {}
    tables = [origin, *(part for part in origin.values() if isinstance(part, dict))]  # of several sets
    return next((table["critical_set"]["name"] for table in tables if table.get("critical_set")), "")


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path)) if path.is_file() else None
    if image is None:
        raise FileNotFoundError(f"image {path} is not there or cannot be read")
    return np.ascontiguousarray(image[:, :, ::-1])


def _by_image(items: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for item in items:
        found.setdefault(item["image_id"], []).append(item)
    return found


def _detections(arm: ReportArm, images: set[int]) -> dict[int, list[Mapping[str, Any]]]:
    """Of the images that are shown alone: those of all would fill the memory."""
    stored = read_json(arm.folder / _DETECTIONS, "detections")
    return _by_image([found for found in stored if found["image_id"] in images])


def _boxes(items: Sequence[Mapping[str, Any]], index: Mapping[int, int]) -> Boxes2D:
    return Boxes2D(
        np.array([item["bbox"] for item in items], dtype=float).reshape(-1, 4) @ _TO_CORNERS,
        np.array([index[item["category_id"]] for item in items], dtype=int),
        np.array([item.get("score", 1.0) for item in items], dtype=float),
    )
