"""Bootstrap intervals over images for AP and for differences of AP.

Images are drawn with replacement; all arms see the same draws, so that differences are paired. Matching of
detections to objects does not depend on the other images, so it is done once; a resample only weights each
image by how often it was drawn. Detections with equal scores keep COCOeval's order.

Shapes: R resamples, I images, D detections of one category, T IoU thresholds, H true positives.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fisher_detr.evaluation.coco import load_detections, quiet

MAX_DETS = 100  # detections per image and category, as in COCO's AP
_CHUNK = 8_000_000  # elements of the largest temporary array, [R, D]


@dataclasses.dataclass(frozen=True)
class BootstrapAP:
    """An AP, or a difference or mean of some, with its values under resampling of the images.

    Attributes:
        point: on the images as they are, in percent.
        samples: on each resample, in percent, `[R]`.
        draw: which resamples these are; only values on the same ones can be compared.
    """

    point: float
    samples: np.ndarray
    draw: str

    def __sub__(self, other: "BootstrapAP") -> "BootstrapAP":
        _require_same_draw([self, other])
        return BootstrapAP(self.point - other.point, self.samples - other.samples, self.draw)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentiles of the samples, moved so that their mean is `point`; NaN where there is no value.

        AP is higher on resamples than on the images as they are, because it takes the upper envelope of a
        curve that is rougher there: noticeably for one arm, by little for a paired difference.
        """
        if np.isnan(self.samples).all():
            return float("nan"), float("nan")
        low, high = np.nanquantile(self.samples, [(1 - level) / 2, (1 + level) / 2])
        shift = self.point - np.nanmean(self.samples)
        return float(low + shift), float(high + shift)


def bootstrap_ap(
    ground_truth: COCO,
    results_by_arm: Mapping[str, Sequence[dict[str, Any]]],
    category_ids: Sequence[int],
    iterations: int = 1000,
    seed: int = 0,
) -> dict[str, BootstrapAP]:
    """AP of several arms, mean over categories, on the same resamples of the images.

    `(arms["a"] - arms["b"]).interval()` is the interval of a paired difference. Calls with the same images,
    iterations and seed draw the same resamples, whatever the categories: `average` joins them.

    Args:
        ground_truth: complete (see `complete_ground_truth`).
        results_by_arm: detections of each arm in COCO's result format.
        category_ids: data set ids of the categories to average over; in a resample without objects of one of
            them, over the others.
        iterations: number of resamples R.
        seed: of the draws.
    """
    image_ids = sorted(ground_truth.getImgIds())
    weights = draw_weights(len(image_ids), iterations, seed)
    draw = (
        f"{len(image_ids)} images ({zlib.crc32(repr(image_ids).encode()):08x}), R = {iterations}, seed {seed}"
    )
    arms = {}
    for arm, results in results_by_arm.items():
        matches = match_categories(ground_truth, results, category_ids)
        point = 100 * mean_ap(matches, np.ones((1, len(image_ids)), dtype=np.int32))[0]
        arms[arm] = BootstrapAP(float(point), 100 * mean_ap(matches, weights), draw)
    return arms


def average(estimates: Sequence[BootstrapAP]) -> BootstrapAP:
    """Mean of estimates on the same resamples, such as the differences on several category sets."""
    _require_same_draw(estimates)
    return BootstrapAP(
        float(np.mean([estimate.point for estimate in estimates])),
        np.mean([estimate.samples for estimate in estimates], axis=0),
        estimates[0].draw,
    )


def draw_weights(num_images: int, iterations: int, seed: int) -> np.ndarray:
    """How often each image is drawn, `[R, I]` int32."""
    if not num_images:
        raise ValueError("bootstrap over images: the ground truth has none")
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=iterations).astype(
        np.int32
    )


@dataclasses.dataclass(frozen=True)
class CategoryMatches:
    """What COCO's matching says about one category.

    Attributes:
        image: position of each detection's image, by descending score, `[D]`.
        true: whether the detection found an object, at each IoU threshold, `[T, D]`.
        ignored: whether it does not count, as on a crowd region, `[T, D]`.
        objects: objects to be found in each image, `[I]`.
        recalls: recall thresholds of AP.
    """

    image: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    recalls: np.ndarray


def match_categories(
    ground_truth: COCO, results: Sequence[dict[str, Any]], category_ids: Sequence[int]
) -> list[CategoryMatches]:
    """Match the detections of each category once, by COCOeval (all areas, 100 detections per image)."""
    evaluation = COCOeval(ground_truth, load_detections(ground_truth, results), "bbox")
    params = evaluation.params
    params.catIds = sorted(category_ids)
    params.maxDets = [MAX_DETS]
    params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
    with quiet():
        evaluation.evaluate()
    num_images = len(params.imgIds)
    per_category = [
        evaluation.evalImgs[start : start + num_images]
        for start in range(0, len(params.catIds) * num_images, num_images)
    ]
    return [_join(images, params) for images in per_category]


def mean_ap(matches: Sequence[CategoryMatches], weights: np.ndarray) -> np.ndarray:
    """AP in [0, 1] with every image counted as often as its weight says, mean over categories.

    Args:
        matches: of each category.
        weights: whole numbers, `[R, I]`.

    Returns:
        `[R]`; NaN where there is nothing to be found.
    """
    by_category = np.array([category_ap(category, weights) for category in matches])  # [categories, R]
    present = ~np.isnan(by_category)
    count = present.sum(axis=0)
    total = np.where(present, by_category, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def category_ap(matches: CategoryMatches, weights: np.ndarray) -> np.ndarray:
    """`mean_ap` of one category, `[R]`."""
    rows = max(1, _CHUNK // max(1, len(matches.image)))
    chunks = [_category_ap(matches, weights[i : i + rows]) for i in range(0, len(weights), rows)]
    return np.concatenate(chunks)


def _category_ap(matches: CategoryMatches, weights: np.ndarray) -> np.ndarray:
    """Precision can only rise at true positives, so the curve is needed there and nowhere else."""
    objects = weights @ matches.objects  # [R]
    drawn = weights[:, matches.image]  # [R, D]
    counted = np.cumsum(drawn, axis=1)
    area = np.zeros(len(weights))
    for true, ignored in zip(matches.true, matches.ignored, strict=True):
        if ignored.any():
            counted_here = np.cumsum(np.where(ignored, 0, drawn), axis=1)
        else:
            counted_here = counted
        hits = np.flatnonzero(true & ~ignored)
        found = np.cumsum(drawn[:, hits], axis=1)  # [R, H]
        precision = found / np.maximum(counted_here[:, hits], 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / np.maximum(objects, 1)[:, None]
        # Number of recall thresholds that each true positive is the first to reach.
        reached = np.searchsorted(matches.recalls, recall, side="right")
        area += (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return np.where(objects > 0, area / (len(matches.true) * len(matches.recalls)), np.nan)


def _join(images: Sequence[dict[str, Any] | None], params: Any) -> CategoryMatches:
    """Join COCOeval's results of all images for one category."""
    index = [i for i, image in enumerate(images) if image is not None]
    objects = np.zeros(len(images), dtype=np.int64)
    objects[index] = [np.count_nonzero(images[i]["gtIgnore"] == 0) for i in index]
    scores = np.concatenate([np.zeros(0), *(images[i]["dtScores"] for i in index)])
    # A stable order, as in COCOeval: ties by image.
    order = np.argsort(-scores, kind="mergesort")
    nothing = np.zeros((len(params.iouThrs), 0))
    matched = np.concatenate([nothing, *(images[i]["dtMatches"] for i in index)], axis=1)
    ignored = np.concatenate([nothing, *(images[i]["dtIgnore"] for i in index)], axis=1)
    image = np.repeat(np.array(index, dtype=np.int64), [len(images[i]["dtScores"]) for i in index])
    return CategoryMatches(
        image[order], matched[:, order] > 0, ignored[:, order] > 0, objects, np.asarray(params.recThrs)
    )


def _require_same_draw(estimates: Sequence[BootstrapAP]) -> None:
    draws = sorted({estimate.draw for estimate in estimates})
    if len(draws) != 1:
        raise ValueError(f"bootstrap estimates on different resamples: {'; '.join(draws) or 'none given'}")
