"""One-to-one matching of queries to objects (DETR, arXiv 2005.12872, equation 1)."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from fisher_detr.modeling.classification import Classification, SoftmaxClassification
from fisher_detr.modeling.targets import Predictions, Targets


@dataclasses.dataclass(frozen=True)
class Matching:
    """Matched pairs of all decoder layers, images and query groups.

    Attributes:
        layer, image, group, query: [M] int64, where the query stands in `Predictions`.
        target: [M] int64, the object's index among the concatenated objects of the batch.
    """

    layer: Tensor
    image: Tensor
    group: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher:
    """Matches by the sum of class, L1 and generalized-IoU costs."""

    def __init__(
        self,
        *,
        classification: Classification | None = None,
        class_cost: float = 1.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
    ):
        """Args are the class head (softmax) and the weights of the three costs, of which one is not 0."""
        if not (class_cost or l1_cost or giou_cost):
            raise ValueError("all matching costs are 0: give at least one of class, L1 and GIoU a weight")
        self.classification = classification or SoftmaxClassification()
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self._memory: _Memory | None = None

    @contextlib.contextmanager
    def repeating(self) -> Iterator[Callable[[], None]]:
        """Remember the matchings within, to repeat them: what is compared then differs by no decision.

        Yields:
            A function that starts, or starts again, to repeat in the order of the calls.
        """
        self._memory = _Memory()
        try:
            yield self._memory.rewind
        finally:
            self._memory = None

    def __call__(self, predictions: Predictions, targets: list[Targets]) -> Matching:
        """Match, or repeat what was matched; see `match` and `repeating`."""
        if self._memory is None:
            return self.match(predictions, targets)
        return self._memory.recall(lambda: self.match(predictions, targets))

    @torch.no_grad()
    def match(self, predictions: Predictions, targets: list[Targets]) -> Matching:
        """Match every layer, image and group on its own.

        The costs of all of them reach the host in one copy.

        Args:
            predictions: of B images, in float32 or wider.
            targets: B items; an image may have no object.

        Returns:
            the pairs, `min(Q, N)` for every layer, image and group.
        """
        layers, _, groups, num_queries, _ = predictions.logits.shape
        costs = torch.cat(
            [self._image_cost(predictions, b, target) for b, target in enumerate(targets)], dim=-1
        )
        host = np.nan_to_num(
            costs.cpu().numpy(), nan=1e6, posinf=1e6, neginf=-1e6
        )  # NaN is reported by the trainer
        pairs, first = [], 0
        for image, target in enumerate(targets):
            count = len(target.classes)
            for layer in range(layers):
                for group in range(groups):
                    queries, objects = linear_sum_assignment(host[layer, group, :, first : first + count])
                    rows = np.broadcast_to(np.array([[layer], [image], [group]]), (3, len(queries)))
                    pairs.append(np.vstack([rows, queries, first + objects]))
            first += count
        table = np.concatenate(pairs, axis=1) if pairs else np.zeros((5, 0))
        return Matching(*torch.from_numpy(table.astype(np.int64)).to(predictions.logits.device))

    def _image_cost(self, predictions: Predictions, image: int, target: Targets) -> Tensor:
        """Cost [L, G, Q, N] of one image."""
        logits, boxes = predictions.logits[:, image], predictions.boxes[:, image]
        classes = self.classification.cost(logits.flatten(0, -2), target.classes)  # [L G Q, N]
        flat = boxes.flatten(0, -2)
        l1 = torch.cdist(flat, target.boxes, p=1)
        giou = generalized_box_iou(
            box_convert(flat, "cxcywh", "xyxy"), box_convert(target.boxes, "cxcywh", "xyxy")
        )
        cost = self.class_cost * classes + self.l1_cost * l1 - self.giou_cost * giou
        return cost.unflatten(0, logits.shape[:-1])


class _Memory:
    """Matchings in the order of the calls."""

    def __init__(self):
        self._matchings: list[Matching] = []
        self._position: int | None = None

    def rewind(self) -> None:
        self._position = 0

    def recall(self, match: Callable[[], Matching]) -> Matching:
        if self._position is None:
            self._matchings.append(match())
            return self._matchings[-1]
        if self._position == len(self._matchings):
            raise RuntimeError(
                f"call {self._position} of a matcher that repeats {len(self._matchings)} matchings: both "
                "evaluations must match the same predictions in the same order"
            )
        self._position += 1
        return self._matchings[self._position - 1]
