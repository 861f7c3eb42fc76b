"""COCO's box AP restricted to categories, on pycocotools or whatever stands in for it."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Of a metric's name: what follows "AP", the IoU threshold (None: the mean of .50 to .95), COCO's area range.
VARIANTS = (
    ("", None, "all"),
    ("50", 0.5, "all"),
    ("75", 0.75, "all"),
    ("S", None, "small"),
    ("M", None, "medium"),
    ("L", None, "large"),
)


def keep_annotations(ground_truth: COCO, positions: Sequence[int]) -> None:
    """Leave only some annotations in the ground truth, in place.

    Args:
        ground_truth: as pycocotools reads it.
        positions: of those that stay, in the file's list.
    """
    annotations = ground_truth.dataset["annotations"]
    ground_truth.dataset["annotations"] = [annotations[i] for i in sorted(positions)]
    with quiet():
        ground_truth.createIndex()


def complete_ground_truth(ground_truth: COCO) -> COCO:
    """Fill in, in place, what COCOeval reads and many COCO-format files leave out or get wrong.

    `iscrowd` defaults to 0 and `area` to that of the box; annotation ids are numbered from 1, because
    COCOeval takes an object with id 0 for an unmatched one.

    Args:
        ground_truth: as pycocotools reads it.

    Returns:
        The same object.
    """
    for number, annotation in enumerate(ground_truth.dataset.get("annotations", []), start=1):
        annotation["id"] = number
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    with quiet():
        ground_truth.createIndex()
    return ground_truth


def evaluate_boxes(
    ground_truth: COCO,
    results: Sequence[dict[str, Any]],
    category_ids: Sequence[int] | None = None,
    image_ids: Sequence[int] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    implementation: Callable[[COCO, COCO, str], COCOeval] = COCOeval,
) -> COCOeval:
    """Match and accumulate detections.

    Args:
        ground_truth: complete (see `complete_ground_truth`).
        results: in COCO's result format, possibly none; not changed.
        category_ids: data set ids to evaluate. None: all.
        image_ids: to evaluate. None: all.
        max_dets: detections per image and category; the last limit is the one of AP.
        implementation: COCOeval or a faster one with its interface.

    Returns:
        The evaluation, with `eval["precision"]`; 0 where objects exist but no detections.
    """
    evaluation = implementation(ground_truth, load_detections(ground_truth, results), "bbox")
    evaluation.params.maxDets = list(max_dets)
    if category_ids is not None:
        evaluation.params.catIds = list(category_ids)
    if image_ids is not None:
        evaluation.params.imgIds = list(image_ids)
    with quiet():
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean_precision(
    evaluation: COCOeval, category_ids: Sequence[int], iou: float | None = None, area: str = "all"
) -> float:
    """AP in percent: mean over categories, recall and IoU thresholds; NaN where there is nothing to find.

    Args:
        evaluation: accumulated, of these categories at least.
        category_ids: data set ids; those that were not evaluated are left out.
        iou: one IoU threshold. None: all of them.
        area: COCO's area range: "all", "small", "medium" or "large".
    """
    params = evaluation.params
    evaluated = {id_: i for i, id_ in enumerate(params.catIds)}
    categories = [evaluated[id_] for id_ in category_ids if id_ in evaluated]
    precision = evaluation.eval[
        "precision"
    ]  # [IoU thresholds, recall thresholds, categories, areas, max dets]
    if iou is not None:
        precision = precision[np.isclose(params.iouThrs, iou)]
    precision = precision[:, :, categories, params.areaRngLbl.index(area), -1]
    precision = precision[precision > -1]  # -1: no such object in the ground truth
    return 100 * float(precision.mean()) if precision.size else float("nan")


def set_metrics(
    evaluation: COCOeval | None, category_ids: Sequence[int], prefix: str, name: str
) -> dict[str, float]:
    """The metrics of one category set: `AP_person`, `AP50_person`, ... for the prefix "AP".

    Args:
        evaluation: as `mean_precision` takes it.
        category_ids: data set ids of the set.
        prefix: of the metrics' names.
        name: of the set.
    """
    return {
        f"{prefix}{variant}_{name}": mean_precision(evaluation, category_ids, iou, area)
        for variant, iou, area in VARIANTS
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pycocotools from printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def load_detections(ground_truth: COCO, results: Sequence[dict[str, Any]]) -> COCO:
    """Detections as pycocotools holds them; `results` may be empty and are not changed."""
    with quiet():
        if results:
            return ground_truth.loadRes([dict(result) for result in results])
        nothing = COCO()  # loadRes cannot read an empty list
        nothing.dataset = {key: ground_truth.dataset[key] for key in ("images", "categories")} | {
            "annotations": []
        }
        nothing.createIndex()
        return nothing
