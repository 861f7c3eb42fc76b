"""Multi-head attention whose four projections and two products are modules that can be swapped.

Shapes: B batch, H heads, T queries, S keys, D width, d = D / H.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from fisher_detr.layers.dropout import dropout


class AttentionProducts(nn.Module):
    """`softmax(q k' / sqrt(d)) v`, in a module of its own so that quantization can replace it."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        """Attend.

        Args:
            q: [B, H, T, d].
            k: [B, H, S, d].
            v: [B, H, S, d].
            mask: bool [B, 1, 1, S], True where a key may be attended; None: everywhere.
            dropout_p: probability with which an attention weight is dropped.

        Returns:
            [B, H, T, d].
        """
        if dropout_p == 0.0 or q.device.type != "cpu":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
        # With dropout torch has no fused kernel for a CPU and does the same with a slower mask.
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # [B, H, T, S]
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return dropout(scores.softmax(-1), dropout_p) @ v


class MultiheadAttention(nn.Module):
    """Attention of "Attention Is All You Need" with q, k, v and output projections as modules.

    `nn.MultiheadAttention` packs q, k and v into one parameter and never calls its output projection's
    forward: swapping its layers would quantize nothing.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        """Args are the width D, the number of heads H (divides D) and the dropout on attention weights."""
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"attention of width {dim} with {num_heads} heads: the heads must divide the width"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.products = AttentionProducts()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as `nn.MultiheadAttention` does: to Xavier's rule its q, k and v are one matrix [3 D, D]."""
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(0.5))  # sqrt(6 / 4 D), not sqrt(6 / 2 D)
        nn.init.xavier_uniform_(self.out_proj.weight)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: [B, T, D].
            key: [B, S, D].
            value: [B, S, D].
            mask: bool [B, S], True where a key may be attended; None: everywhere.

        Returns:
            [B, T, D].
        """
        projected = (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        q, k, v = (split_heads(x, self.num_heads) for x in projected)
        return self.out_proj(attend(self.products, q, k, v, mask, self.dropout if self.training else 0.0))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Map [B, length, D] to [B, H, length, d]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(
    products: AttentionProducts, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float
) -> Tensor:
    """Multiply heads and put them side by side again.

    Args:
        products: of an attention.
        q: [B, H, T, d].
        k: [B, H, S, d].
        v: [B, H, S, d'].
        mask: bool [B, S], True where a key may be attended; None: everywhere.
        dropout_p: probability with which an attention weight is dropped.

    Returns:
        [B, T, H d'].
    """
    if mask is not None:
        mask = mask[:, None, None, :]  # [B, 1, 1, S]
    return products(q, k, v, mask, dropout_p).transpose(1, 2).flatten(2)
