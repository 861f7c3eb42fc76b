"""transformers' states under the official names: what the originals would have stored of the same weights."""

import re

import torch

_BACKBONE = [
    (r"^.*embedder\.embedder\.convolution", "conv1"),
    (r"^.*embedder\.embedder\.normalization", "bn1"),
    (r"^.*encoder\.stages\.(\d)\.layers\.(\d)", lambda m: f"layer{int(m[1]) + 1}.{m[2]}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
]
_COMMON = [
    (r"^model\.(encoder|decoder)\.", r"transformer.\1."),
    (r"\.(?:mlp\.)?fc([12])\.", r".linear\1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^class_labels_classifier", "class_embed"),
    (r"^bbox_predictor", "bbox_embed"),
    (r"^model\.input_projection", "input_proj"),
    (r"^model\.query_position_embeddings", "query_embed"),
    (r"^transformer\.decoder\.layernorm", "transformer.decoder.norm"),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d+)\.final_layer_norm", r"\1.norm3"),
]
_DETR = [
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm", r"\1.norm2"),
    (r"\.encoder_attn\.", ".multihead_attn."),
]
# The decoder's norms are numbered by its modules: cross-attention first.
_DEFORMABLE = [
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm", r"\1.norm1"),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm2"),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"^model\.input_proj\.", "input_proj."),
    (r"^model\.(level_embed|reference_points|enc_output|pos_trans)", r"transformer.\1"),
]
_DAB = [
    (r"self_attn\.self_attn_query_(content|pos)_proj", r"sa_q\1_proj"),
    (r"self_attn\.self_attn_key_(content|pos)_proj", r"sa_k\1_proj"),
    (r"self_attn\.self_attn_value_proj", "sa_v_proj"),
    (r"self_attn\.self_attn\.output_proj", "self_attn.out_proj"),
    (r"self_attn\.self_attn_layer_norm", "norm1"),
    (r"cross_attn\.cross_attn_query_pos_sine_proj", "ca_qpos_sine_proj"),
    (r"cross_attn\.cross_attn_query_(content|pos)_proj", r"ca_q\1_proj"),
    (r"cross_attn\.cross_attn_key_(content|pos)_proj", r"ca_k\1_proj"),
    (r"cross_attn\.cross_attn_value_proj", "ca_v_proj"),
    (r"cross_attn\.cross_attn\.output_proj", "cross_attn.out_proj"),
    (r"cross_attn\.cross_attn_layer_norm", "norm2"),
    (r"mlp\.final_layer_norm", "final_layer_norm"),
    (r"(?:mlp\.)?activation_fn", "activation"),
    (r"^model\.query_refpoint_embeddings", "refpoint_embed"),
    (r"^model\.patterns", "transformer.patterns"),
]
_OWN = {"detr": _DETR, "deformable": _DEFORMABLE, "dab": _DAB}


def to_official_names(state: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    """Rename, and pack q, k and v where the originals do."""
    official = {}
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            official[_rename(key, family)] = value
    for key in [key for key in official if re.search(r"\.q_proj\.", key)]:
        parts = [official.pop(key.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        official[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return official


def _rename(key: str, family: str) -> str:
    backbone = "backbone" in key
    for pattern, replacement in _BACKBONE if backbone else _OWN[family] + _COMMON:
        key = re.sub(pattern, replacement, key)
    return f"backbone.0.body.{key}" if backbone else key
