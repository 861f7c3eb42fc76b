"""Dropout that does not cost a CPU more than the layer it follows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def dropout(x: Tensor, p: float) -> Tensor:
    """Set entries to 0 with probability p and scale the others by 1 / (1 - p).

    On a CPU the mask comes from uniform numbers: torch's Bernoulli numbers take twice the time there, and are
    6 % of a training step of DETR.

    Args:
        x: [...].
        p: in [0, 1).
    """
    if p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    kept = torch.empty_like(x, requires_grad=False).uniform_() >= p  # a byte each is kept for the gradient
    return torch.where(kept, x, 0.0).mul_(1 / (1 - p))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training, and change nothing otherwise."""
        return dropout(x, self.p) if self.training else x
