"""The transformer of Deformable DETR (arXiv 2010.04159).

Shapes: B batch, L levels, S tokens of all levels, Q queries, G query groups, D width, N decoder layers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fisher_detr.layers import Dropout, MSDeformAttn, MultiheadAttention
from fisher_detr.modeling.blocks import FeedForward, LayerSpec, initialise, relative_boxes, within_groups
from fisher_detr.modeling.pyramid import TokenPyramid


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over the tokens, then a feed-forward block."""

    def __init__(self, spec: LayerSpec, num_levels: int, num_points: int):
        """Build from what all layers have in common, L, and the points of each level."""
        super().__init__()
        self.self_attn = MSDeformAttn(spec.dim, spec.num_heads, num_levels, num_points)
        self.self_attn_norm = nn.LayerNorm(spec.dim)
        self.ffn = FeedForward(spec)
        self.dropout = Dropout(spec.dropout)

    def forward(self, tokens: Tensor, reference: Tensor, pyramid: TokenPyramid) -> Tensor:
        """Encode one layer.

        Args:
            tokens: [B, S, D].
            reference: [B, S, L, 2], where the tokens are on each level's map.
            pyramid: positions, levels and mask of the tokens.

        Returns:
            [B, S, D].
        """
        attended = self.self_attn(tokens + pyramid.position, reference, tokens, pyramid.levels, pyramid.mask)
        return self.ffn(self.self_attn_norm(tokens + self.dropout(attended)))


class DeformableDecoderLayer(nn.Module):
    """Self-attention among the queries, deformable cross-attention to the tokens, a feed-forward block."""

    def __init__(self, spec: LayerSpec, num_levels: int, num_points: int):
        """Build from what all layers have in common, L, and the points of each level."""
        super().__init__()
        self.self_attn = MultiheadAttention(spec.dim, spec.num_heads, spec.dropout)
        self.self_attn_norm = nn.LayerNorm(spec.dim)
        self.cross_attn = MSDeformAttn(spec.dim, spec.num_heads, num_levels, num_points)
        self.cross_attn_norm = nn.LayerNorm(spec.dim)
        self.ffn = FeedForward(spec)
        self.dropout = Dropout(spec.dropout)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tensor,
        pyramid: TokenPyramid,
        groups: int,
    ) -> Tensor:
        """Decode one layer.

        Args:
            queries: [B, G Q, D].
            query_position: [B, G Q, D].
            reference: [B, G Q, 2 or 4], points or boxes as parts of the image without padding.
            memory: [B, S, D], the encoded tokens.
            pyramid: levels and mask of the tokens.
            groups: G.

        Returns:
            [B, G Q, D].
        """
        located = queries + query_position
        attended = within_groups(self.self_attn, groups, located, located, queries)
        queries = self.self_attn_norm(queries + self.dropout(attended))
        attended = self.cross_attn(
            queries + query_position, pyramid.on_levels(reference), memory, pyramid.levels, pyramid.mask
        )
        queries = self.cross_attn_norm(queries + self.dropout(attended))
        return self.ffn(queries)


class DeformableTransformer(nn.Module):
    """Encoder and decoder of Deformable DETR."""

    def __init__(
        self,
        spec: LayerSpec,
        *,
        encoder_layers: int,
        decoder_layers: int,
        num_levels: int,
        encoder_points: int,
        decoder_points: int,
    ):
        """Build as many layers as the depths say, for L levels and points of each level."""
        super().__init__()
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(spec, num_levels, encoder_points) for _ in range(encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(spec, num_levels, decoder_points) for _ in range(decoder_layers)
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, spec.dim))
        initialise(self)
        nn.init.normal_(self.level_embed)

    def encode(self, pyramid: TokenPyramid) -> Tensor:
        """Map the pyramid's tokens to the memory, [B, S, D]; `level_embed` is in its positions already."""
        reference = pyramid.on_levels(pyramid.centers)
        tokens = pyramid.tokens
        for layer in self.encoder:
            tokens = layer(tokens, reference, pyramid)
        return tokens

    def decode(
        self,
        queries: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tensor,
        pyramid: TokenPyramid,
        box_heads: Sequence[Callable[[Tensor], Tensor]],
        *,
        groups: int = 1,
        refine: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Decode the queries.

        Args:
            queries: [B, G Q, D].
            query_position: [B, G Q, D].
            reference: [B, G Q, 2 or 4], points or boxes as parts of the image.
            memory: [B, S, D].
            pyramid: levels and mask of the tokens.
            box_heads: of the N layers, each from states [B, G Q, D] to boxes [B, G Q, 4] relative to the
                reference, before the sigmoid.
            groups: G.
            refine: whether a layer's boxes are the next one's reference.

        Returns:
            states [N, B, G Q, D] and boxes [N, B, G Q, 4] (center x, center y, width, height as parts of the
            image) of every layer.
        """
        states, boxes = [], []
        for layer, head in zip(self.decoder, box_heads, strict=False):  # two-stage: a head more
            queries = layer(queries, query_position, reference, memory, pyramid, groups)
            states.append(queries)
            boxes.append(relative_boxes(head(queries), reference))
            if refine:
                reference = boxes[-1].detach()
        return torch.stack(states), torch.stack(boxes)
