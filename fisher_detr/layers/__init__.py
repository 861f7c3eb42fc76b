"""Building blocks in plain torch: attention with explicit projections, position encoding, heads, boxes."""

from fisher_detr.layers.attention import AttentionProducts, MultiheadAttention, attend, split_heads
from fisher_detr.layers.boxes import inverse_sigmoid, paired_generalized_iou
from fisher_detr.layers.detections import select_detections
from fisher_detr.layers.dropout import Dropout, dropout
from fisher_detr.layers.frozen_parts import frozen_parts
from fisher_detr.layers.mlp import MLP
from fisher_detr.layers.modes import in_eval_mode, twice_differentiable
from fisher_detr.layers.ms_deform_attn import Levels, MSDeformAttn, sample_levels
from fisher_detr.layers.position_encoding import SinePositionEncoding, sine_encoding
from fisher_detr.layers.precision import at_least_float32, without_tf32
from fisher_detr.layers.random_states import random_states, set_random_states
from fisher_detr.layers.repeated_choices import repeating_choices

__all__ = [
    "MLP",
    "AttentionProducts",
    "Dropout",
    "Levels",
    "MSDeformAttn",
    "MultiheadAttention",
    "SinePositionEncoding",
    "at_least_float32",
    "attend",
    "dropout",
    "frozen_parts",
    "in_eval_mode",
    "inverse_sigmoid",
    "paired_generalized_iou",
    "random_states",
    "repeating_choices",
    "sample_levels",
    "select_detections",
    "set_random_states",
    "sine_encoding",
    "split_heads",
    "twice_differentiable",
    "without_tf32",
]
