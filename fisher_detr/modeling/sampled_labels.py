"""Labels drawn from a model's own predictions: with them `E[g g']` is not the empirical Fisher information.

Every query draws a category or none from its scores, and a box from around its own; it is then compared with
what it has drawn itself, in every decoder layer.
"""

import dataclasses
import enum
import hashlib
from typing import Any

import torch
from torch import Tensor

from fisher_detr.modeling.classification import Classification, SoftmaxClassification
from fisher_detr.modeling.matcher import HungarianMatcher, Matching
from fisher_detr.modeling.targets import Predictions, Targets


class LabelSource(enum.StrEnum):
    """Where the labels of the Fisher information come from."""

    DATA = "data"  # the empirical Fisher information
    MODEL = "model"  # drawn from its predictions


@dataclasses.dataclass(frozen=True)
class LabelSampler:
    """Draws the objects of an image: the same for one image and seed, whatever batch or rank it is in.

    Attributes:
        classification: the class head.
        num_classes: number n of categories.
        noise: mean absolute deviation of a drawn box from the predicted one, in each of its four numbers, as
            parts of the image. The gradient of the L1 loss has a sign and no size: it does not depend on it.
        seed: of the draws.
    """

    classification: Classification
    num_classes: int
    noise: float = 0.02
    seed: int = 0

    @torch.no_grad()
    def draw(self, predictions: Predictions, sample: dict[str, Any]) -> tuple[Targets, Tensor]:
        """Draw the objects of an image.

        Args:
            predictions: of this image alone; the last layer and the first group draw.
            sample: the image, for its `image_id`.

        Returns:
            N objects, and the N queries that have drawn them, int64.
        """
        generator = torch.Generator().manual_seed(self._seed_of(sample))
        shares = self._shares(predictions.logits[-1, 0, 0]).cpu()  # [Q, n + 1]
        labels = torch.multinomial(shares.double(), 1, generator=generator)[:, 0]
        queries = torch.nonzero(labels < self.num_classes)[:, 0]
        boxes = predictions.boxes[-1, 0, 0].cpu()[queries]
        uniform = torch.rand(boxes.shape, generator=generator, dtype=torch.float64) - 0.5
        laplace = -self.noise * uniform.sign() * torch.log1p(-2 * uniform.abs())
        drawn = (boxes.double() + laplace).clamp(1e-4, 1.0).to(boxes.dtype)
        device = predictions.boxes.device
        return Targets(labels[queries].to(device), drawn.to(device)), queries.to(device)

    def _shares(self, logits: Tensor) -> Tensor:
        """Probabilities of the categories and of none, `[Q, n + 1]`.

        A sigmoid head may give several categories to one query; they then share what there is.
        """
        if isinstance(self.classification, SoftmaxClassification):
            return logits.softmax(-1)
        scores = logits.sigmoid()
        total = scores.sum(-1, keepdim=True)
        return torch.cat([scores / total.clamp(min=1.0), (1.0 - total).clamp(min=0.0)], dim=-1)

    def _seed_of(self, sample: dict[str, Any]) -> int:
        text = f"{self.seed}:{sample['image_id']}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:7])


class OwnMatcher(HungarianMatcher):
    """Compares each query with what it has drawn; proposals, which draw nothing, are matched as ever."""

    def __init__(self, like: HungarianMatcher, queries: Tensor, num_queries: int):
        """Args are the matcher for proposals, the query of each object, and the number of queries."""
        super().__init__(
            classification=like.classification,
            class_cost=like.class_cost,
            l1_cost=like.l1_cost,
            giou_cost=like.giou_cost,
        )
        self._queries = queries
        self._num_queries = num_queries

    def match(self, predictions: Predictions, targets: list[Targets]) -> Matching:
        """The drawn pairs in every layer, of one image and group."""
        layers, images, groups, num_queries = predictions.logits.shape[:4]
        if (images, groups, num_queries) != (1, 1, self._num_queries):
            return super().match(predictions, targets)
        objects = torch.arange(len(self._queries), device=self._queries.device)
        layer = torch.arange(layers, device=objects.device).repeat_interleave(len(objects))
        zero = torch.zeros_like(layer)
        return Matching(layer, zero, zero, self._queries.repeat(layers), objects.repeat(layers))
