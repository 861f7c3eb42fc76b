"""The transformer of DAB-DETR (arXiv 2201.12329): queries are boxes, refined layer by layer.

Shapes: B batch, H heads, S tokens of the feature map, Q queries, G query groups, D width, N decoder layers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fisher_detr.layers import (
    MLP,
    AttentionProducts,
    Dropout,
    attend,
    sine_encoding,
    split_heads,
)
from fisher_detr.modeling.blocks import FeedForward, LayerSpec, initialise, relative_boxes, within_groups
from fisher_detr.modeling.transformer import EncoderLayer


class DabSelfAttention(nn.Module):
    """Self-attention whose content and position have projections of their own."""

    def __init__(self, spec: LayerSpec):
        """As the layer that it is a part of."""
        super().__init__()
        dim = spec.dim
        self.num_heads = spec.num_heads
        self.dropout = spec.dropout
        self.q_content_proj = nn.Linear(dim, dim)
        self.q_pos_proj = nn.Linear(dim, dim)
        self.k_content_proj = nn.Linear(dim, dim)
        self.k_pos_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)
        self.products = AttentionProducts()

    def forward(self, queries: Tensor, position: Tensor) -> Tensor:
        """Map queries [B, Q, D] with positions [B, Q, D] to [B, Q, D]."""
        q = self.q_content_proj(queries) + self.q_pos_proj(position)
        k = self.k_content_proj(queries) + self.k_pos_proj(position)
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, self.v_proj(queries)))
        return self.out_proj(attend(self.products, q, k, v, None, self.dropout if self.training else 0.0))


class DabCrossAttention(nn.Module):
    """Cross-attention on content and position side by side in every head (Conditional DETR's form)."""

    def __init__(self, spec: LayerSpec, first: bool):
        """As the layer that it is a part of; in the first the query position counts too."""
        super().__init__()
        dim = spec.dim
        self.num_heads = spec.num_heads
        self.dropout = spec.dropout
        self.q_content_proj = nn.Linear(dim, dim)
        self.q_pos_proj = nn.Linear(dim, dim) if first else None
        self.q_sine_proj = nn.Linear(dim, dim)
        self.k_content_proj = nn.Linear(dim, dim)
        self.k_pos_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)
        self.products = AttentionProducts()

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: tuple[Tensor, Tensor, Tensor | None],
    ) -> Tensor:
        """Attend.

        Args:
            queries: [B, Q, D].
            query_position: [B, Q, D].
            query_sine: [B, Q, D], modulated sine encoding of the boxes' centers.
            memory: tokens [B, S, D], their positions [B, S, D] and mask [B, S] or None.

        Returns:
            [B, Q, D].
        """
        tokens, position, mask = memory
        q, k, k_pos = self.q_content_proj(queries), self.k_content_proj(tokens), self.k_pos_proj(position)
        if self.q_pos_proj is not None:
            q, k = q + self.q_pos_proj(query_position), k + k_pos
        q_sine, v = self.q_sine_proj(query_sine), self.v_proj(tokens)
        q, q_sine, k, k_pos, v = (split_heads(x, self.num_heads) for x in (q, q_sine, k, k_pos, v))
        q, k = torch.cat([q, q_sine], dim=-1), torch.cat([k, k_pos], dim=-1)  # [B, H, ., 2 D / H]
        return self.out_proj(attend(self.products, q, k, v, mask, self.dropout if self.training else 0.0))


class DabDecoderLayer(nn.Module):
    """Self-attention among the queries, modulated cross-attention, a feed-forward block."""

    def __init__(self, spec: LayerSpec, first: bool):
        """Build from what all layers have in common, and whether the layer is the first."""
        super().__init__()
        self.self_attn = DabSelfAttention(spec)
        self.self_attn_norm = nn.LayerNorm(spec.dim)
        self.cross_attn = DabCrossAttention(spec, first)
        self.cross_attn_norm = nn.LayerNorm(spec.dim)
        self.ffn = FeedForward(spec)
        self.dropout = Dropout(spec.dropout)

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: tuple[Tensor, Tensor, Tensor | None],
        groups: int,
    ) -> Tensor:
        """Decode one layer; see `DabCrossAttention`, with G Q queries."""
        attended = within_groups(self.self_attn, groups, queries, query_position)
        queries = self.self_attn_norm(queries + self.dropout(attended))
        attended = self.cross_attn(queries, query_position, query_sine, memory)
        queries = self.cross_attn_norm(queries + self.dropout(attended))
        return self.ffn(queries)


class DabTransformer(nn.Module):
    """Encoder and decoder of DAB-DETR."""

    def __init__(self, spec: LayerSpec, *, encoder_layers: int, decoder_layers: int):
        """Build as many layers as the depths say; the paper's activation is PReLU."""
        super().__init__()
        dim = spec.dim
        self.encoder_scale = MLP(dim, dim, dim, 2)
        self.encoder = nn.ModuleList(EncoderLayer(spec) for _ in range(encoder_layers))
        self.query_scale = MLP(dim, dim, dim, 2)
        self.ref_point_head = MLP(2 * dim, dim, dim, 2)
        self.ref_anchor_head = MLP(dim, dim, 2, 2)
        self.decoder = nn.ModuleList(
            DabDecoderLayer(spec, first=index == 0) for index in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        initialise(self)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        mask: Tensor | None,
        queries: Tensor,
        anchors: Tensor,
        box_head: Callable[[Tensor], Tensor],
        groups: int = 1,
        every_layer: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Encode the tokens, decode the queries.

        Args:
            tokens: [B, S, D].
            position: [B, S, D].
            mask: bool [B, S], True inside the image; None: no padding.
            queries: [B, G Q, D], content.
            anchors: [B, G Q, 4], center x, center y, width, height as parts of the image.
            box_head: from states [..., D] to boxes [..., 4] relative to the anchors, before the sigmoid.
            groups: G.
            every_layer: whether the layers before the last are asked for.

        Returns:
            normalized states [N, B, G Q, D] and boxes [N, B, G Q, 4] of every decoder layer; N is 1 where
            only the last is asked for.
        """
        for layer in self.encoder:
            tokens = layer(tokens, position * self.encoder_scale(tokens), mask)
        memory = (tokens, position, mask)
        states, references = [], [anchors]
        for index, layer in enumerate(self.decoder):
            query_position, query_sine = self._positions(queries, anchors, first=index == 0)
            queries = layer(queries, query_position, query_sine, memory, groups)
            states.append(self.norm(queries))
            if index < len(self.decoder) - 1:
                # The next layer attends around the refined box without its gradient, and predicts with it.
                references.append(relative_boxes(box_head(queries), anchors))
                anchors = references[-1].detach()
        asked = slice(None) if every_layer else slice(-1, None)
        states, references = torch.stack(states[asked]), torch.stack(references[asked])
        return states, relative_boxes(box_head(states), references)

    def _positions(self, queries: Tensor, anchors: Tensor, first: bool) -> tuple[Tensor, Tensor]:
        """Position of the queries, and the sine encoding of their centers, modulated by their size."""
        half = queries.shape[-1] // 2
        x, y, width, height = anchors.unbind(-1)
        encoded = sine_encoding(torch.stack([y, x, width, height], -1) * (2 * math.pi), half)
        encoded = encoded.to(queries.dtype)  # [B, Q, 4, D / 2]
        query_position = self.ref_point_head(encoded.flatten(-2))
        wanted = self.ref_anchor_head(queries).sigmoid()  # width and height, [B, Q, 2]
        factors = torch.stack([wanted[..., 1] / height, wanted[..., 0] / width], -1)
        sine = (encoded[..., :2, :] * factors[..., None]).flatten(-2)
        return query_position, sine if first else sine * self.query_scale(queries)
