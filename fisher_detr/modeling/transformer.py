"""The transformer of DETR (arXiv 2005.12872): post-norm encoder and decoder.

Shapes: B batch, S tokens of the feature map, Q queries, G query groups, D width.
"""

import torch
from torch import Tensor, nn

from fisher_detr.layers import Dropout, MultiheadAttention
from fisher_detr.modeling.blocks import FeedForward, LayerSpec, initialise, within_groups


class EncoderLayer(nn.Module):
    """Self-attention over the tokens of the feature map, then a feed-forward block."""

    def __init__(self, spec: LayerSpec):
        """Build from what all layers have in common."""
        super().__init__()
        self.self_attn = MultiheadAttention(spec.dim, spec.num_heads, spec.dropout)
        self.self_attn_norm = nn.LayerNorm(spec.dim)
        self.ffn = FeedForward(spec)
        self.dropout = Dropout(spec.dropout)

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens [B, S, D] with position encodings [B, S, D] and mask [B, S] to [B, S, D]."""
        located = tokens + position
        tokens = self.self_attn_norm(tokens + self.dropout(self.self_attn(located, located, tokens, mask)))
        return self.ffn(tokens)


class DecoderLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the tokens, a feed-forward block."""

    def __init__(self, spec: LayerSpec):
        """Build from what all layers have in common."""
        super().__init__()
        self.self_attn = MultiheadAttention(spec.dim, spec.num_heads, spec.dropout)
        self.self_attn_norm = nn.LayerNorm(spec.dim)
        self.cross_attn = MultiheadAttention(spec.dim, spec.num_heads, spec.dropout)
        self.cross_attn_norm = nn.LayerNorm(spec.dim)
        self.ffn = FeedForward(spec)
        self.dropout = Dropout(spec.dropout)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        memory: tuple[Tensor, Tensor, Tensor | None],
        groups: int,
    ):
        """Decode one layer.

        Args:
            queries: [B, G Q, D].
            query_position: [B, G Q, D].
            memory: keys [B, S, D] (tokens with their position), values [B, S, D] and mask [B, S] or None.
            groups: G; queries attend to each other within their group only.

        Returns:
            [B, G Q, D].
        """
        located = queries + query_position
        attended = within_groups(self.self_attn, groups, located, located, queries)
        queries = self.self_attn_norm(queries + self.dropout(attended))
        attended = self.cross_attn(queries + query_position, *memory)
        queries = self.cross_attn_norm(queries + self.dropout(attended))
        return self.ffn(queries)


class Transformer(nn.Module):
    """Encoder and decoder of DETR."""

    def __init__(self, spec: LayerSpec, *, encoder_layers: int, decoder_layers: int):
        """Build as many layers as the depths say."""
        super().__init__()
        self.encoder = nn.ModuleList(EncoderLayer(spec) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(spec) for _ in range(decoder_layers))
        self.norm = nn.LayerNorm(spec.dim)
        initialise(self)

    def forward(
        self, tokens: Tensor, position: Tensor, mask: Tensor | None, query_position: Tensor, groups: int = 1
    ) -> Tensor:
        """Encode the tokens, decode the queries.

        Args:
            tokens: [B, S, D].
            position: [B, S, D].
            mask: bool [B, S], True inside the image; None: no padding.
            query_position: [G Q, D].
            groups: G.

        Returns:
            normalized states of every decoder layer, [L, B, G Q, D].
        """
        for layer in self.encoder:
            tokens = layer(tokens, position, mask)
        query_position = query_position.expand(tokens.shape[0], -1, -1)
        queries = torch.zeros_like(query_position)
        memory = (tokens + position, tokens, mask)
        states = []
        for layer in self.decoder:
            queries = layer(queries, query_position, memory, groups)
            states.append(self.norm(queries))
        return torch.stack(states)
