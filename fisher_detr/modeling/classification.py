"""Softmax and sigmoid class heads: their size, their loss, and their part of the matching cost.

Shapes: L decoder layers, B batch, G query groups, Q queries, N objects, n categories.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss


class Classification(Protocol):
    """What criterion, matcher and meta-architectures ask of a class head."""

    def num_logits(self, num_classes: int) -> int:
        """Logits of a query over n categories."""

    def bias(self) -> float | None:
        """First bias of the logits; None: as a linear layer starts."""

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Matching cost [R, N] of rows of logits [R, n or n + 1] and objects' classes [N]."""

    def loss(
        self, logits: Tensor, labels: Tensor, num_objects: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Loss [L] from logits [L, B, G, Q, n or n + 1].

        Args:
            logits: of every query.
            labels: int64 [L, B, G, Q]; n where a query has no object.
            num_objects: of the batch and one group, for each rank; at least 1.
            factors: [L, B, G, Q] of each query's term; None: 1.
        """


class SoftmaxClassification:
    """Cross entropy with a down-weighted no-object class (DETR, arXiv 2005.12872)."""

    def __init__(self, no_object_weight: float = 0.1):
        """The weight of the no-object class within the weighted mean."""
        self.no_object_weight = no_object_weight

    def num_logits(self, num_classes: int) -> int:
        """The categories and no-object."""
        return num_classes + 1

    def bias(self) -> None:
        """No prior."""
        return

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Minus the probability."""
        return -logits.softmax(-1)[:, classes]

    def loss(
        self, logits: Tensor, labels: Tensor, num_objects: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Weighted mean over all queries of a layer; the number of objects does not count."""
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)
        no_object = labels == logits.shape[-1] - 1
        weights = torch.ones_like(losses).masked_fill(no_object, self.no_object_weight)
        # Nothing counts where no-object weighs 0 and no image has an object: 0 / 0 is no loss.
        total = weights.flatten(1).sum(1).clamp(min=torch.finfo(weights.dtype).tiny)
        weights = weights if factors is None else weights * factors
        return (weights * losses).flatten(1).sum(1) / total


class SigmoidClassification:
    """Focal loss (arXiv 1708.02002) as in Deformable DETR and DAB-DETR."""

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, prior: float = 0.01):
        """Args are the weight of positives, the focusing exponent, and the first probability of a class."""
        self.alpha = alpha
        self.gamma = gamma
        self.prior = prior

    def num_logits(self, num_classes: int) -> int:
        """The categories."""
        return num_classes

    def bias(self) -> float:
        """The prior's logit."""
        return -math.log((1 - self.prior) / self.prior)

    def cost(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Focal loss of a positive less that of a negative."""
        chosen = logits[:, classes]
        probability = chosen.sigmoid()
        positive = self.alpha * (1 - probability) ** self.gamma * -F.logsigmoid(chosen)
        negative = (1 - self.alpha) * probability**self.gamma * -F.logsigmoid(-chosen)
        return positive - negative

    def loss(
        self, logits: Tensor, labels: Tensor, num_objects: Tensor, factors: Tensor | None = None
    ) -> Tensor:
        """Sum over all queries and categories for each object of a group."""
        num_classes = logits.shape[-1]
        wanted = F.one_hot(labels, num_classes + 1)[..., :num_classes].to(logits.dtype)
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma, reduction="none")
        losses = losses if factors is None else losses * factors[..., None]
        return losses.flatten(1).sum(1) / (logits.shape[2] * num_objects)
