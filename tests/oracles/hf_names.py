"""transformers' names beside the official ones and this project's: one table, read in both columns."""

import re

import torch

OFFICIAL, OURS = 1, 2  # columns of the tables; the first is what transformers has

_BACKBONE = [
    (r"^.*embedder\.embedder\.convolution", "backbone.0.body.conv1", "backbone.stem.conv1"),
    (r"^.*embedder\.embedder\.normalization", "backbone.0.body.bn1", "backbone.stem.conv1.norm"),
    (
        r"^.*encoder\.stages\.(\d)\.layers\.(\d)",
        lambda m: f"backbone.0.body.layer{int(m[1]) + 1}.{m[2]}",
        lambda m: f"backbone.res{int(m[1]) + 2}.{m[2]}",
    ),
    (r"shortcut\.convolution", "downsample.0", "shortcut"),
    (r"shortcut\.normalization", "downsample.1", "shortcut.norm"),
    (
        r"layer\.(\d)\.convolution",
        lambda m: f"conv{int(m[1]) + 1}",
        lambda m: f"conv{int(m[1]) + 1}",
    ),
    (
        r"layer\.(\d)\.normalization",
        lambda m: f"bn{int(m[1]) + 1}",
        lambda m: f"conv{int(m[1]) + 1}.norm",
    ),
]
_DAB = [
    (
        r"self_attn\.self_attn_(query|key)_(content|pos)_proj",
        lambda m: f"sa_{m[1][0]}{m[2]}_proj",
        lambda m: f"self_attn.{m[1][0]}_{m[2]}_proj",
    ),
    (r"self_attn\.self_attn_value_proj", "sa_v_proj", "self_attn.v_proj"),
    (r"self_attn\.self_attn\.output_proj", "self_attn.out_proj", "self_attn.out_proj"),
    (r"self_attn\.self_attn_layer_norm", "norm1", "self_attn_norm"),
    (r"cross_attn\.cross_attn_query_pos_sine_proj", "ca_qpos_sine_proj", "cross_attn.q_sine_proj"),
    (
        r"cross_attn\.cross_attn_(query|key)_(content|pos)_proj",
        lambda m: f"ca_{m[1][0]}{m[2]}_proj",
        lambda m: f"cross_attn.{m[1][0]}_{m[2]}_proj",
    ),
    (r"cross_attn\.cross_attn_value_proj", "ca_v_proj", "cross_attn.v_proj"),
    (r"cross_attn\.cross_attn\.output_proj", "cross_attn.out_proj", "cross_attn.out_proj"),
    (r"cross_attn\.cross_attn_layer_norm", "norm2", "cross_attn_norm"),
    (r"^model\.encoder\.query_scale", "transformer.encoder.query_scale", "transformer.encoder_scale"),
    (
        r"^model\.decoder\.(query_scale|ref_point_head|ref_anchor_head)",
        r"transformer.decoder.\1",
        r"transformer.\1",
    ),
    (r"^model\.query_refpoint_embeddings", "refpoint_embed", "refpoint_embed"),
    (r"^model\.patterns", "transformer.patterns", "patterns"),
    (r"(?:mlp\.)?activation_fn", "activation", "ffn.activation"),
    (r"mlp\.final_layer_norm", "final_layer_norm", "final_layer_norm"),
]
_DETR_DECODER = [
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1", r"\1.self_attn_norm"),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm", r"\1.norm2", r"\1.cross_attn_norm"),
    (r"\.encoder_attn\.", ".multihead_attn.", ".cross_attn."),
]
# The original numbers the decoder's norms by its modules: cross-attention first.
_DEFORMABLE_DECODER = [
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm", r"\1.norm1", r"\1.cross_attn_norm"),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm2", r"\1.self_attn_norm"),
    (r"\.encoder_attn\.", ".cross_attn.", ".cross_attn."),
]
_DEFORMABLE = [
    (r"\.output_proj", ".output_proj", ".out_proj"),
    (r"^model\.level_embed", "transformer.level_embed", "transformer.level_embed"),
    (r"^model\.input_proj\.", "input_proj.", "input_proj."),
    (r"^model\.reference_points", "transformer.reference_points", "reference_points"),
    (r"^model\.(enc_output|pos_trans)", r"transformer.\1", r"proposals.\1"),
]
_ALL = [
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1", r"\1.self_attn_norm"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2", r"\1.ffn.norm"),
    (r"(decoder\.layers\.\d+)\.final_layer_norm", r"\1.norm3", r"\1.ffn.norm"),
    (r"\.(?:mlp\.)?fc([12])\.", r".linear\1.", r".ffn.linear\1."),
    (r"\.o_proj\.", ".out_proj.", ".out_proj."),
    (r"^model\.(encoder|decoder)\.layers\.", r"transformer.\1.layers.", r"transformer.\1."),
    (r"^model\.decoder\.layernorm", "transformer.decoder.norm", "transformer.norm"),
    (r"^model\.decoder\.(class|bbox)_embed", r"transformer.decoder.\1_embed", r"\1_embed"),
    (r"^model\.query_position_embeddings", "query_embed", "query_embed"),
    (r"^model\.input_projection", "input_proj", "input_proj"),
    (r"^class_labels_classifier", "class_embed", "class_embed"),
    (r"^bbox_predictor", "bbox_embed", "bbox_embed"),
]


def to_our_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename transformers' keys to this project's; the decoder's second names of the heads are these too."""
    rows = _DAB + _DETR_DECODER + _DEFORMABLE + _ALL
    return {_rename(key, rows, OURS): value for key, value in _without_counters(state).items()}


def to_official_names(state: dict[str, torch.Tensor], family: str) -> dict[str, torch.Tensor]:
    """What the originals would have stored of the same weights: renamed, q, k and v packed."""
    decoder = _DEFORMABLE_DECODER if family == "deformable" else _DETR_DECODER
    rows = (_DAB if family == "dab" else []) + decoder + _DEFORMABLE + _ALL
    official = {_rename(key, rows, OFFICIAL): value for key, value in _without_counters(state).items()}
    for key in [key for key in official if re.search(r"\.q_proj\.", key)]:
        parts = [official.pop(key.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        official[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return official


def _without_counters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _rename(key: str, rows: list[tuple], column: int) -> str:
    for row in _BACKBONE if "backbone" in key else rows:
        key = re.sub(row[0], row[column], key)
    return key
