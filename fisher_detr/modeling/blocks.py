"""What the transformers share.

Shapes: B batch, Q queries, G query groups, D width.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fisher_detr.layers import (
    Dropout,
    MSDeformAttn,
    MultiheadAttention,
    at_least_float32,
    inverse_sigmoid,
)


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """What all encoder and decoder layers of a transformer have in common.

    Attributes:
        dim: D.
        num_heads: of the attentions, a divisor of D.
        hidden_dim: width between the two linear layers of a feed-forward block.
        dropout: probability, after attentions and linear layers and on attention weights.
        activation: between the two linear layers.
    """

    dim: int
    num_heads: int
    hidden_dim: int
    dropout: float = 0.0
    activation: type[nn.Module] = nn.ReLU


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, residual and norm."""

    def __init__(self, spec: LayerSpec):
        """As the layer that it is a part of."""
        super().__init__()
        self.linear1 = nn.Linear(spec.dim, spec.hidden_dim)
        self.linear2 = nn.Linear(spec.hidden_dim, spec.dim)
        self.activation = spec.activation()
        self.norm = nn.LayerNorm(spec.dim)
        self.dropout = Dropout(spec.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))


def within_groups(attend: Callable[..., Tensor], groups: int, *inputs: Tensor) -> Tensor:
    """Let queries attend to each other within their group only.

    Args:
        attend: self-attention of inputs [B, Q, D].
        groups: G.
        *inputs: each [B, G Q, D].

    Returns:
        [B, G Q, D].
    """
    if groups == 1:
        return attend(*inputs)
    batch = len(inputs[0])
    apart = (x.unflatten(1, (groups, -1)).flatten(0, 1) for x in inputs)  # [B G, Q, D]
    return attend(*apart).unflatten(0, (batch, groups)).flatten(1, 2)


def initialise(module: nn.Module) -> None:
    """Initialise a transformer as the DETR family does: by Xavier's rule, attentions by their own."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, MultiheadAttention | MSDeformAttn):
            part.reset_parameters()


def relative_boxes(logits: Tensor, reference: Tensor) -> Tensor:
    """Boxes from a head's outputs and what they are relative to.

    Args:
        logits: [..., 4].
        reference: [..., 2] or [..., 4], in [0, 1].

    Returns:
        [..., 4] in [0, 1], center x, center y, width, height.
    """
    origin = inverse_sigmoid(reference)
    if origin.shape[-1] == 2:
        origin = torch.cat([origin, torch.zeros_like(origin)], dim=-1)
    return (at_least_float32(logits) + origin).sigmoid()
