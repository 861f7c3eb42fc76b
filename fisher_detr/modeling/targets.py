"""What the criterion compares: predictions of all decoder layers, and the objects of each image."""

import dataclasses
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_convert

from fisher_detr.layers import at_least_float32


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of all decoder layers.

    Attributes:
        logits: [L, B, G, Q, n + 1] (softmax head, no-object last) or [L, B, G, Q, n] (sigmoid head); the last
            layer last.
        boxes: [L, B, G, Q, 4], center x, center y, width, height as parts of the image without padding.
        proposals: of a first stage, with L = G = 1 and Q tokens; None: there is none, or nobody asks.
    """

    logits: Tensor
    boxes: Tensor
    proposals: "Predictions | None" = None

    def in_float32(self) -> "Predictions":
        """The same with half precision widened: matching costs and losses need the mantissa."""
        proposals = self.proposals and self.proposals.in_float32()
        return Predictions(at_least_float32(self.logits), at_least_float32(self.boxes), proposals)

    def of_image(self, image: int) -> "Predictions":
        """Those of one image, as of a batch of one."""
        part = slice(image, image + 1)
        proposals = self.proposals and self.proposals.of_image(image)
        return Predictions(self.logits[:, part], self.boxes[:, part], proposals)

    def last_layer(self) -> "Predictions":
        """What detections are made of; proposals stay, whose boxes the decoder takes for constants."""
        return dataclasses.replace(self, logits=self.logits[-1:], boxes=self.boxes[-1:])


@dataclasses.dataclass(frozen=True)
class Targets:
    """The objects of one image.

    Attributes:
        classes: [N] int64 in [0, n).
        boxes: [N, 4], center x, center y, width, height as parts of the image without padding.
    """

    classes: Tensor
    boxes: Tensor

    @classmethod
    def from_instances(cls, instances: Instances, device: torch.device, dtype: torch.dtype) -> "Targets":
        """Take `gt_classes` and `gt_boxes` (absolute xyxy) of an image as the mapper made them."""
        height, width = instances.image_size
        boxes = instances.gt_boxes.tensor.to(device=device, dtype=dtype)
        boxes = box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])
        return cls(instances.gt_classes.to(device), boxes)


def targets_of(
    batched_inputs: list[dict[str, Any]], device: torch.device, dtype: torch.dtype
) -> list[Targets]:
    """Targets of a batch.

    Raises:
        KeyError: an input has no `instances`.
    """
    missing = [str(x.get("file_name", i)) for i, x in enumerate(batched_inputs) if "instances" not in x]
    if missing:
        raise KeyError(
            f"inputs without 'instances': {missing[:3]}: losses need a mapper that keeps the annotations"
        )
    return [Targets.from_instances(x["instances"], device, dtype) for x in batched_inputs]
