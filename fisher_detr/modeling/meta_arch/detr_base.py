"""What all DETR detectors share: image preprocessing, losses, and detections in the original image."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling import Backbone, build_backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from fisher_detr.layers import select_detections
from fisher_detr.modeling.criterion import BoxLoss, LossObjective, SetCriterion, critical_losses
from fisher_detr.modeling.frozen_conv import fuse_frozen_norms
from fisher_detr.modeling.matcher import HungarianMatcher
from fisher_detr.modeling.meta_arch.parts import classification_of, num_classes_of
from fisher_detr.modeling.sampled_labels import LabelSampler, OwnMatcher
from fisher_detr.modeling.targets import Predictions, Targets, targets_of
from fisher_detr.structures import CategorySet

Batch = list[dict[str, Any]]
# Weighted losses by name, from predictions, targets and the batch.
TrainingTerm = Callable[[Predictions, list[Targets], Batch], dict[str, Tensor]]


class DetrBase(nn.Module):
    """A detector that predicts a set: subclasses turn feature maps into `Predictions`."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        criterion: SetCriterion,
        num_classes: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        query_groups: int = 1,
        deep_supervision: bool = True,
        top_k: int = 100,
        critical_box_loss: BoxLoss = BoxLoss.CRITICAL,
    ):
        """Build.

        Args:
            backbone: feature maps from a normalized image.
            criterion: the training loss.
            num_classes: number n of categories, without no-object.
            pixel_mean: mean of each channel, in the range of the input's values.
            pixel_std: standard deviation of each channel.
            query_groups: groups of queries in training (Group DETR, arXiv 2207.13085).
            deep_supervision: losses on every decoder layer.
            top_k: detections kept for each image.
            critical_box_loss: which objects count in the box losses of the critical objective.
        """
        super().__init__()
        # Channels last, images and weights: a third faster through the first stages of a ResNet on a CPU.
        self.backbone = fuse_frozen_norms(backbone).to(memory_format=torch.channels_last)
        self.criterion = criterion
        self.num_classes = num_classes
        self.query_groups = query_groups
        self.deep_supervision = deep_supervision
        self.top_k = top_k
        self.critical_box_loss = critical_box_loss
        # Terms that are added to the training loss, from the same predictions.
        self.more_losses: list[TrainingTerm] = []
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        """Read what all detectors share from MODEL.DETR, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and CRITICAL."""
        detr = cfg.MODEL.DETR
        matcher = HungarianMatcher(
            classification=classification_of(detr),
            class_cost=detr.CLASS_COST,
            l1_cost=detr.L1_COST,
            giou_cost=detr.GIOU_COST,
        )
        return {
            "backbone": build_backbone(cfg),
            "criterion": SetCriterion(
                matcher=matcher,
                class_weight=detr.CLASS_WEIGHT,
                l1_weight=detr.L1_WEIGHT,
                giou_weight=detr.GIOU_WEIGHT,
            ),
            "num_classes": num_classes_of(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "query_groups": detr.QUERY_GROUPS,
            "deep_supervision": detr.DEEP_SUPERVISION,
            "top_k": detr.TOP_K,
            "critical_box_loss": BoxLoss(cfg.CRITICAL.BOX_LOSS),
        }

    @property
    def groups(self) -> int:
        """Query groups of the present mode: inference uses the first."""
        return self.query_groups if self.training else 1

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.pixel_mean.device

    def decode(self, images: ImageList) -> Predictions:
        """Predict from normalized, padded images."""
        raise NotImplementedError

    def forward(self, batched_inputs: Batch) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Train or detect.

        Args:
            batched_inputs: for each image `image` [3, H, W] (values as the pixel mean expects them),
                `instances` with `gt_boxes` and `gt_classes` when training, and optionally `height`, `width`
                of the output.

        Returns:
            training: the weighted losses. Otherwise for each image `instances` (`pred_boxes` in absolute xyxy
            of the output size, `scores`, `pred_classes`), and `queries` (`pred_boxes` and `logits` of every
            query).

        Raises:
            ValueError: what is detected is not finite.
        """
        if self.training:
            return self._training_losses(batched_inputs)
        images = self.preprocess(batched_inputs)
        predictions = self.decode(images)
        return [
            self._detect(predictions.logits[-1, i, 0], predictions.boxes[-1, i, 0], size, batched_inputs[i])
            for i, size in enumerate(images.image_sizes)
        ]

    def losses(self, batched_inputs: Batch, category_set: CategorySet | None = None) -> dict[str, Tensor]:
        """The weighted losses of L_A or, with a critical set, of L_F; in training and in eval mode."""
        return self.objectives(batched_inputs, [category_set])[0]

    def objectives(
        self,
        batched_inputs: Batch,
        category_sets: list[CategorySet | None],
        across_ranks: bool = True,
        aux_loss: bool = True,
    ) -> list[dict[str, Tensor]]:
        """Losses of several objectives from one forward pass; None stands for L_A.

        `across_ranks` is that of `SetCriterion.__call__`: False where one image is one sample. Without
        `aux_loss` the decoder layers before the last do not count (proposals do).
        """
        predictions = self.decode(self.preprocess(batched_inputs))
        if not aux_loss:
            predictions = predictions.last_layer()
        targets = targets_of(batched_inputs, self.device, predictions.boxes.dtype)
        return [self.compare(predictions, targets, chosen, across_ranks) for chosen in category_sets]

    def image_objectives(
        self,
        batched_inputs: Batch,
        objectives: list[LossObjective],
        aux_loss: bool = True,
        sampler: LabelSampler | None = None,
    ) -> list[Tensor]:
        """Total loss `[B]` of every image alone, from one forward pass; arguments as for `objectives`.

        An image is divided by its own number of objects. In eval mode its loss does not depend on the others,
        where all images have one size: padding is seen by the layers behind a norm. With a sampler the labels
        are drawn from the predictions, and those of the images have no part.
        """
        predictions = self.decode(self.preprocess(batched_inputs))
        if not aux_loss:
            predictions = predictions.last_layer()
        totals: list[list[Tensor]] = [[] for _ in objectives]
        for index, sample in enumerate(batched_inputs):
            of_image = predictions.of_image(index)
            targets, criterion = self._labels(of_image, sample, sampler)
            for total, chosen in zip(totals, objectives, strict=True):
                losses = self.compare(of_image, targets, chosen, False, criterion)
                total.append(torch.stack(list(losses.values())).sum())
        return [torch.stack(total) for total in totals]

    def _labels(
        self, predictions: Predictions, sample: dict[str, Any], sampler: LabelSampler | None
    ) -> tuple[list[Targets], SetCriterion]:
        """What the predictions of an image are compared with, and how."""
        if sampler is None:
            return targets_of([sample], self.device, predictions.boxes.dtype), self.criterion
        drawn, queries = sampler.draw(predictions, sample)
        matcher = OwnMatcher(self.criterion.matcher, queries, predictions.logits.shape[3])
        return [drawn], self.criterion.matching_by(matcher)

    def compare(
        self,
        predictions: Predictions,
        targets: list[Targets],
        objective: LossObjective = None,
        across_ranks: bool = True,
        criterion: SetCriterion | None = None,
    ) -> dict[str, Tensor]:
        """The losses of predictions; arguments as for `objectives`, and the criterion, if not the model's."""
        criterion = criterion or self.criterion
        if isinstance(objective, CategorySet):
            return critical_losses(
                criterion, predictions, targets, objective, self.critical_box_loss, across_ranks
            )
        factors = objective.factors(targets) if objective else None
        return criterion(predictions, targets, across_ranks=across_ranks, factors=factors)

    def _training_losses(self, batched_inputs: Batch) -> dict[str, Tensor]:
        predictions = self.decode(self.preprocess(batched_inputs))
        targets = targets_of(batched_inputs, self.device, predictions.boxes.dtype)
        losses = self.compare(predictions, targets)
        for more in self.more_losses:
            losses |= more(predictions, targets, batched_inputs)
        return losses

    def preprocess(self, batched_inputs: Batch) -> ImageList:
        """Normalize and pad."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        padded = ImageList.from_tensors(images, self.backbone.size_divisibility)
        padded.tensor = padded.tensor.contiguous(memory_format=torch.channels_last)
        return padded

    def _detect(
        self, logits: Tensor, boxes: Tensor, size: tuple[int, int], inputs: dict
    ) -> dict[str, Instances]:
        if not (boxes.isfinite().all() & logits.isfinite().all()):
            image = inputs.get("file_name", inputs.get("image_id", ""))
            raise ValueError(
                f"image {image}: the model's boxes or scores are NaN or infinite: check the checkpoint, or "
                "take one from before its training diverged"
            )
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        scale = boxes.new_tensor([width, height, width, height])
        absolute = Boxes(box_convert(boxes, "cxcywh", "xyxy") * scale)
        absolute.clip((height, width))
        scores, classes, chosen = select_detections(logits, self.num_classes, self.top_k)
        instances = Instances(
            (height, width), pred_boxes=absolute[chosen], scores=scores, pred_classes=classes
        )
        return {
            "instances": instances,
            "queries": Instances((height, width), pred_boxes=absolute, logits=logits),
        }
