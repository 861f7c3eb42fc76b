"""Building blocks in plain torch: attention with explicit projections, position encoding, heads."""

from fisher_detr.layers.attention import AttentionProducts, MultiheadAttention
from fisher_detr.layers.detections import select_detections
from fisher_detr.layers.mlp import MLP
from fisher_detr.layers.position_encoding import SinePositionEncoding

__all__ = ["MLP", "AttentionProducts", "MultiheadAttention", "SinePositionEncoding", "select_detections"]
