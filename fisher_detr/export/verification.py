"""Whether two detectors find the same on real images."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment

Detector = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
_FAR = 1e6  # cost of a pair that cannot be one detection


class ExportMismatch(ValueError):
    """An exported file finds other things than the model it was made from."""


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far detections may be apart.

    Attributes:
        box: greatest difference of a coordinate, in pixels of the output ...
        relative_box: ... or as a part of the longer side of the image, where that is more.
        score: greatest difference of the scores.
        agreement: part of the detections that must have a counterpart.
        min_score: detections below it have no need of one.
    """

    box: float
    score: float
    agreement: float = 1.0
    min_score: float = 0.05
    relative_box: float = 0.0

    def box_of(self, size: tuple[int, int]) -> float:
        """Greatest difference of a coordinate in an image of a size, in pixels."""
        return max(self.box, self.relative_box * max(size))

    def __str__(self) -> str:
        """For a sentence."""
        relative = f" or {self.relative_box:.1%} of the image" if self.relative_box else ""
        return f"{self.box:g} px{relative} and {self.score:g} of score"


# Float operators differ by rounding alone.
FLOAT_TOLERANCE = Tolerance(box=0.5, score=0.01)
# Rounding to 256 levels turns the least change into one of a level somewhere: a fake-quantized detector is
# no closer to itself once the image has a little noise.
INTEGER_TOLERANCE = Tolerance(box=4.0, score=0.1, agreement=0.9, min_score=0.3, relative_box=0.015)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        images: number of images.
        detections: of both detectors, at or above the least score.
        matched: those with a counterpart.
        box: greatest difference of a matched coordinate, in pixels.
        score: greatest difference of matched scores.
        tolerance: by which they were matched.
    """

    images: int
    detections: int
    matched: int
    box: float
    score: float
    tolerance: Tolerance

    @property
    def agreement(self) -> float:
        """Part of the detections with a counterpart; 0 where there are none: nothing was shown."""
        return self.matched / self.detections if self.detections else 0.0

    def require(self) -> None:
        """Raise where the detectors differ.

        Raises:
            ExportMismatch: fewer agree than must.
        """
        if self.agreement < self.tolerance.agreement:
            raise ExportMismatch(
                f"the exported model differs from PyTorch's: {self}; expected at least "
                f"{self.tolerance.agreement:.1%} to agree: do not use the file"
            )

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.matched} of {self.detections} detections of score {self.tolerance.min_score:g} and above "
            f"on {self.images} images agree within {self.tolerance}, the farthest of these by "
            f"{self.box:.3g} px and {self.score:.3g}"
        )


def compare_detectors(
    reference: Detector, exported: Detector, batches: Iterable[list[dict[str, Any]]], tolerance: Tolerance
) -> Comparison:
    """Run both on the same batches.

    Args:
        reference: gives `instances` for each image of a batch.
        exported: the same.
        batches: of the model's inputs.
        tolerance: within which two detections are one.
    """
    found = [_compare_batch(reference(batch), exported(batch), tolerance) for batch in batches]
    pairs = np.concatenate([np.zeros((0, 2)), *(pairs for _, pairs in found)])
    box, score = pairs.max(0) if len(pairs) else (0.0, 0.0)
    counts = np.sum([counts for counts, _ in found], axis=0)
    return Comparison(*map(int, counts), float(box), float(score), tolerance)


def _compare_batch(reference, exported, tolerance: Tolerance) -> tuple[tuple[int, int, int], np.ndarray]:
    """Images, detections and matched ones of a batch; differences [M, 2] of the matched pairs."""
    images = [
        _compare_image(a["instances"], b["instances"], tolerance)
        for a, b in zip(reference, exported, strict=True)
    ]
    detections, matched = (sum(image[i] for image in images) for i in range(2))
    return (len(images), detections, matched), np.concatenate([pairs for *_, pairs in images])


def _compare_image(
    reference: Instances, exported: Instances, tolerance: Tolerance
) -> tuple[int, int, np.ndarray]:
    """Detections, matched ones and differences of the matched pairs of one image."""
    (boxes, scores, classes), (others, other_scores, other_classes) = map(_arrays, (reference, exported))
    box = np.abs(boxes[:, None] - others).max(-1, initial=0.0)  # [N, M]
    score = np.abs(scores[:, None] - other_scores)
    cost = np.maximum(box / tolerance.box_of(reference.image_size), score / tolerance.score)
    cost = np.where((cost <= 1) & (classes[:, None] == other_classes), cost, _FAR)
    rows, columns = linear_sum_assignment(cost)
    near = cost[rows, columns] < _FAR
    rows, columns = rows[near], columns[near]
    high, other_high = scores >= tolerance.min_score, other_scores >= tolerance.min_score
    matched = int(high[rows].sum() + other_high[columns].sum())
    shown = high[rows] | other_high[columns]
    pairs = np.stack([box[rows, columns], score[rows, columns]], axis=-1)[shown]
    return int(high.sum() + other_high.sum()), matched, pairs


def _arrays(instances: Instances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tensors = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
    return tuple(tensor.detach().cpu().numpy() for tensor in tensors)
