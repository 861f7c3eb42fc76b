"""Geometry of boxes."""

import torch
from torch import Tensor


def paired_generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized IoU (arXiv 1902.09630) of each box with the other of its row, without an epsilon.

    An epsilon in the areas would count: 1e-7 is 1 % of the union of two boxes of 4 px in an image of 1000 px.

    Args:
        boxes: [M, 4], x0, y0, x1, y1 with x0 <= x1 and y0 <= y1.
        others: [M, 4], the same.

    Returns:
        [M], in [-1, 1]; the IoU of two boxes without area, and the gap in a hull without area, count as 0.
    """
    inner_low, inner_high = torch.max(boxes[:, :2], others[:, :2]), torch.min(boxes[:, 2:], others[:, 2:])
    hull_low, hull_high = torch.min(boxes[:, :2], others[:, :2]), torch.max(boxes[:, 2:], others[:, 2:])
    inner = (inner_high - inner_low).clamp(min=0).prod(-1)
    hull = (hull_high - hull_low).prod(-1)
    union = sum((b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others)) - inner
    return _ratio(inner, union) - _ratio(hull - union, hull)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of numbers in [0, 1], such as box coordinates; bounded where they reach 0 or 1.

    Args:
        x: [...], clamped to [0, 1].
        eps: smallest numerator and denominator of the odds.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, 0 where the whole is 0; its gradient is finite there too."""
    nothing = whole <= 0
    return torch.where(nothing, 0.0, part / whole.masked_fill(nothing, 1.0))
