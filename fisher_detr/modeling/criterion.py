"""The training loss of DETR (arXiv 2005.12872, equation 2), and its critical-category form."""

import copy
import dataclasses
import enum

import torch
from detectron2.utils import comm
from torch import Tensor
from torchvision.ops import box_convert

from fisher_detr.critical import collapse_labels, collapse_logits
from fisher_detr.layers import paired_generalized_iou
from fisher_detr.modeling.classification import Classification
from fisher_detr.modeling.matcher import HungarianMatcher, Matching
from fisher_detr.modeling.targets import Predictions, Targets
from fisher_detr.structures import CategorySet


class BoxLoss(enum.StrEnum):
    """Which objects count in the box losses of the critical objective."""

    ALL = "all"
    CRITICAL = "critical"


@dataclasses.dataclass(frozen=True)
class Reweighted:
    """The overall objective in which the objects of a critical set count more.

    Attributes:
        category_set: the critical set.
        factor: of the terms of its objects.
    """

    category_set: CategorySet
    factor: float

    def factors(self, targets: list[Targets]) -> Tensor:
        """Of the batch's objects, [N]."""
        classes = torch.cat([target.classes for target in targets])
        critical = torch.isin(classes, torch.tensor(self.category_set.indices, device=classes.device))
        return torch.where(critical, self.factor, 1.0)


# What a loss is of: None stands for L_A.
LossObjective = CategorySet | Reweighted | None


class SetCriterion:
    """Matches queries to objects, then weighs classification, L1 and generalized-IoU losses."""

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
    ):
        """Build.

        Args:
            matcher: pairs queries with objects; its class head has the loss.
            class_weight: weight of the class head's loss.
            l1_weight: weight of the L1 loss on normalized boxes.
            giou_weight: weight of 1 - GIoU.
        """
        self.matcher = matcher
        self.weights = {"loss_ce": class_weight, "loss_bbox": l1_weight, "loss_giou": giou_weight}

    def matching_by(self, matcher: HungarianMatcher) -> "SetCriterion":
        """The same losses of other pairs."""
        other = copy.copy(self)
        other.matcher = matcher
        return other

    @property
    def classification(self) -> Classification:
        """The class head's loss and cost."""
        return self.matcher.classification

    def __call__(
        self,
        predictions: Predictions,
        targets: list[Targets],
        box_counts: Tensor | None = None,
        across_ranks: bool = True,
        factors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted losses.

        Args:
            predictions: of B images, L decoder layers, G query groups.
            targets: B items; an image may have no object.
            box_counts: [N] bool, which of the batch's objects count in the box losses; None: all.
            across_ranks: divide by the mean number of objects of all ranks, which must all call then;
                otherwise by this batch's own.
            factors: [N], of the terms of the batch's objects, not of what is divided by; None: 1.

        Returns:
            scalars `loss_ce`, `loss_bbox`, `loss_giou` of the last layer and, with the suffix `_0`, `_1`,
            ..., of the layers before it; with the suffix `_enc` of the proposals, where there are any.
        """
        losses = self._layers(predictions, targets, box_counts, across_ranks, factors)
        if predictions.proposals is not None:
            # Proposals have no category: an object is the first one.
            objects = [dataclasses.replace(t, classes=torch.zeros_like(t.classes)) for t in targets]
            of_proposals = self._layers(predictions.proposals, objects, box_counts, across_ranks, factors)
            losses |= {f"{name}_enc": value for name, value in of_proposals.items()}
        return losses

    def _layers(
        self,
        predictions: Predictions,
        targets: list[Targets],
        box_counts: Tensor | None,
        across_ranks: bool,
        factors: Tensor | None,
    ) -> dict[str, Tensor]:
        matching = self.matcher(predictions, targets)
        classes = torch.cat([target.classes for target in targets])
        boxes = torch.cat([target.boxes for target in targets])
        counts = torch.ones_like(classes, dtype=torch.bool) if box_counts is None else box_counts
        num_objects = _num_objects(torch.ones_like(classes), across_ranks)
        losses = {"loss_ce": self._class_losses(predictions.logits, classes, matching, num_objects, factors)}
        shares = counts / _num_objects(counts, across_ranks)
        shares = shares if factors is None else shares * factors
        losses |= self._box_losses(predictions.boxes, boxes, shares, matching)
        depth = len(predictions.logits)
        return {
            name if layer == depth - 1 else f"{name}_{layer}": self.weights[name] * values[layer]
            for layer in reversed(range(depth))
            for name, values in losses.items()
        }

    def _class_losses(
        self,
        logits: Tensor,
        classes: Tensor,
        matching: Matching,
        num_objects: Tensor,
        factors: Tensor | None,
    ) -> Tensor:
        """Classification loss of each layer, [L]."""
        no_object = logits.shape[-1] - (self.classification.num_logits(0))
        labels = torch.full(logits.shape[:-1], no_object, dtype=torch.int64, device=logits.device)
        matched = matching.layer, matching.image, matching.group, matching.query
        labels[matched] = classes[matching.target]
        if factors is None:
            return self.classification.loss(logits, labels, num_objects)
        of_queries = torch.ones_like(labels, dtype=logits.dtype)
        of_queries[matched] = factors[matching.target].to(logits.dtype)
        return self.classification.loss(logits, labels, num_objects, of_queries)

    def _box_losses(
        self, boxes: Tensor, objects: Tensor, shares: Tensor, matching: Matching
    ) -> dict[str, Tensor]:
        """L1 and generalized-IoU losses of each layer, [L], where each of the N objects has its share."""
        matched = boxes[matching.layer, matching.image, matching.group, matching.query]  # [M, 4]
        paired = objects[matching.target]
        l1 = (matched - paired).abs().sum(-1)
        giou = 1 - paired_generalized_iou(
            box_convert(matched, "cxcywh", "xyxy"), box_convert(paired, "cxcywh", "xyxy")
        )
        weights = shares[matching.target].to(boxes.dtype) / boxes.shape[2]
        return {
            name: boxes.new_zeros(len(boxes)).index_add(0, matching.layer, weights * values)
            for name, values in (("loss_bbox", l1), ("loss_giou", giou))
        }


def _num_objects(counts: Tensor, across_ranks: bool) -> Tensor:
    """Objects for each rank, at least 1: every rank divides by the same number."""
    total = counts.sum().to(torch.float64)
    if not across_ranks:
        return total.clamp(min=1.0)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1.0)


def critical_losses(
    criterion: SetCriterion,
    predictions: Predictions,
    targets: list[Targets],
    category_set: CategorySet,
    box_loss: BoxLoss = BoxLoss.CRITICAL,
    across_ranks: bool = True,
) -> dict[str, Tensor]:
    """The critical-category objective L_F: the criterion on transformed logits and labels, matching included.

    The logits of proposals are not transformed: they have no categories to merge.

    Args:
        criterion: of the overall objective.
        predictions: with logits over all n categories.
        targets: with labels over all n categories.
        category_set: the critical set C.
        box_loss: whether box losses count for all objects or for the critical ones only.
        across_ranks: see `SetCriterion.__call__`.

    Returns:
        the losses of `criterion`.
    """
    collapsed = [Targets(collapse_labels(t.classes, category_set), t.boxes) for t in targets]
    counts = None
    if box_loss is BoxLoss.CRITICAL:
        counts = torch.cat([t.classes for t in collapsed]) < len(category_set)
    transformed = dataclasses.replace(predictions, logits=collapse_logits(predictions.logits, category_set))
    return criterion(transformed, collapsed, counts, across_ranks)
