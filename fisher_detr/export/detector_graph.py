"""A detector as a function of tensors: what the exported file computes.

Shapes: B batch, H and W of the padded images, Q queries, n categories, K detections.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert


@dataclasses.dataclass(frozen=True)
class GraphImages:
    """Stands in for Detectron2's `ImageList`, whose sizes are Python numbers that a traced graph would keep.

    Attributes:
        tensor: [B, 3, H, W], normalized.
        image_sizes: int64 [B, 2], height and width of the images inside their padding; None: no padding.
    """

    tensor: Tensor
    image_sizes: Tensor | None


class DetectorGraph(nn.Module):
    """Normalization, model and, by choice, post-processing on tensors alone."""

    def __init__(self, model: nn.Module, post_processing: bool):
        """Wrap a detector of `fisher_detr.modeling`; it is put into eval mode."""
        super().__init__()
        self.model = model
        self.post_processing = post_processing
        self.eval()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of what `forward` returns."""
        return ("boxes", "scores", "classes") if self.post_processing else ("logits", "boxes")

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: float32 [B, 3, H, W], values as the model's pixel mean expects them.
            sizes: int64 [B, 2], height and width of each image inside its padding; None: no padding.

        Returns:
            with post-processing boxes [B, K, 4] (xyxy in pixels of the input, within the image), scores
            [B, K] descending and int64 classes [B, K]; without it logits [B, Q, n or n + 1] and boxes
            [B, Q, 4] (center x, center y, width, height as parts of the image).
        """
        normalized = (images - self.model.pixel_mean) / self.model.pixel_std
        if sizes is not None:
            normalized = normalized * _inside(images, sizes)  # the model is used to padding of 0
        predictions = self.model.decode(GraphImages(normalized, sizes))
        logits, boxes = predictions.logits[-1][:, 0], predictions.boxes[-1][:, 0]
        if not self.post_processing:
            return logits, boxes
        scores, classes, queries = best_detections(logits, self.model.num_classes, self.model.top_k)
        return _absolute(boxes, queries, images, sizes), scores, classes


def best_detections(logits: Tensor, num_classes: int, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`layers.select_detections` of a batch of any size, in operators that export.

    Args:
        logits: [B, Q, n + 1] (softmax head, no-object last) or [B, Q, n] (sigmoid head).
        num_classes: n.
        top_k: largest K.

    Returns:
        scores, classes and queries, [B, K] each.
    """
    if logits.shape[-1] == num_classes + 1:
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)
        scores, queries = scores.topk(min(top_k, int(scores.shape[1])), dim=1)
        return scores, classes.gather(1, queries), queries
    scores = logits.sigmoid().flatten(1)
    scores, flat = scores.topk(min(top_k, int(scores.shape[1])), dim=1)
    return scores, flat % num_classes, flat // num_classes


def _inside(images: Tensor, sizes: Tensor) -> Tensor:
    """1 within each image, 0 on its padding, [B, 1, H, W]."""
    rows, columns = (
        torch.arange(length) < limit[:, None]
        for length, limit in zip(images.shape[-2:], sizes.unbind(1), strict=True)
    )
    return (rows[:, None, :, None] & columns[:, None, None]).to(images.dtype)


def _absolute(boxes: Tensor, queries: Tensor, images: Tensor, sizes: Tensor | None) -> Tensor:
    """Chosen boxes in pixels, clipped to the image."""
    if sizes is None:
        height, width = (torch.as_tensor(n) for n in images.shape[-2:])
        limits = torch.stack([width, height, width, height]).to(boxes.dtype)  # [4]
    else:
        limits = sizes[:, None, [1, 0, 1, 0]].to(boxes.dtype)  # [B, 1, 4]
    chosen = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    absolute = box_convert(chosen, "cxcywh", "xyxy") * limits
    return torch.minimum(absolute.clamp(min=0), limits)
