"""Building blocks in plain torch: attention with explicit projections, position encoding, heads, boxes."""

from fisher_detr.layers.attention import AttentionProducts, MultiheadAttention
from fisher_detr.layers.boxes import paired_generalized_iou
from fisher_detr.layers.detections import select_detections
from fisher_detr.layers.mlp import MLP
from fisher_detr.layers.position_encoding import SinePositionEncoding

__all__ = [
    "MLP",
    "AttentionProducts",
    "MultiheadAttention",
    "SinePositionEncoding",
    "paired_generalized_iou",
    "select_detections",
]
