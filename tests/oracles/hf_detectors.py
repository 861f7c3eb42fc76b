"""transformers' detectors as oracles: built without a network, and their states copied into ours."""

import copy
import re

import torch
from torch import nn
from transformers import (
    DabDetrConfig,
    DabDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
)

ALL_STAGES = ("stage2", "stage3", "stage4")


def build_hf_detr(num_classes: int, *, dim=32, queries=10, **options) -> nn.Module:
    """A random DETR on a ResNet of basic blocks, batch norm statistics not trivial.

    `auxiliary_loss` stays off: with it transformers 5.23 feeds every decoder layer the normalized output of
    the one before it, which the original DETR does not.
    """
    config = DetrConfig(num_queries=queries, **_common(num_classes, dim, ["stage4"]), d_model=dim, **options)
    return _randomized(DetrForObjectDetection(config))


def build_hf_deformable_detr(num_classes: int, *, dim=32, queries=10, **options) -> nn.Module:
    """A random Deformable DETR; with refinement its heads differ from layer to layer."""
    config = DeformableDetrConfig(
        num_queries=queries,
        two_stage_num_proposals=queries,
        d_model=dim,
        **_common(num_classes, dim, ALL_STAGES),
        **options,
    )
    model = DeformableDetrForObjectDetection(config)
    if config.with_box_refine:
        # transformers ties the heads of all layers on construction; the original has one for each.
        for name in ("class_embed", "bbox_embed"):
            heads = nn.ModuleList(copy.deepcopy(head) for head in getattr(model, name))
            setattr(model, name, heads)
            if getattr(model.model.decoder, name) is not None:
                setattr(model.model.decoder, name, heads)
    return _randomized(model)


def build_hf_dab_detr(num_classes: int, *, dim=32, queries=10, **options) -> nn.Module:
    """A random DAB-DETR."""
    config = DabDetrConfig(
        num_queries=queries, hidden_size=dim, **_common(num_classes, dim, ["stage4"]), **options
    )
    return _randomized(DabDetrForObjectDetection(config))


def _common(num_classes: int, dim: int, stages) -> dict:
    backbone = ResNetConfig(
        layer_type="basic",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        out_features=list(stages),
    )
    return {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": backbone,
        "num_labels": num_classes,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * dim,
        "decoder_ffn_dim": 2 * dim,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }


def _randomized(model: nn.Module) -> nn.Module:
    """Make everything count: transformers starts with small matrices, and some tensors start at 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.dim() == 2:
                nn.init.xavier_uniform_(tensor, generator=generator)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


_TRANSFORMER = [
    # DAB-DETR's projections
    (r"self_attn\.self_attn_(query|key)_(content|pos)_proj", lambda m: f"self_attn.{m[1][0]}_{m[2]}_proj"),
    (r"self_attn\.self_attn_value_proj", "self_attn.v_proj"),
    (r"self_attn\.self_attn\.output_proj", "self_attn.out_proj"),
    (r"self_attn\.self_attn_layer_norm", "self_attn_norm"),
    (r"cross_attn\.cross_attn_query_pos_sine_proj", "cross_attn.q_sine_proj"),
    (r"cross_attn\.cross_attn_(query|key)_(content|pos)_proj", lambda m: f"cross_attn.{m[1][0]}_{m[2]}_proj"),
    (r"cross_attn\.cross_attn_value_proj", "cross_attn.v_proj"),
    (r"cross_attn\.cross_attn\.output_proj", "cross_attn.out_proj"),
    (r"cross_attn\.cross_attn_layer_norm", "cross_attn_norm"),
    (r"^model\.encoder\.query_scale", "transformer.encoder_scale"),
    (r"^model\.decoder\.(query_scale|ref_point_head|ref_anchor_head)", r"transformer.\1"),
    (r"^model\.query_refpoint_embeddings", "refpoint_embed"),
    (r"(?:mlp\.)?activation_fn", "ffn.activation"),
    (r"mlp\.final_layer_norm", "final_layer_norm"),
    (r"^model\.patterns", "patterns"),
    # Deformable DETR's
    (r"\.output_proj", ".out_proj"),
    (r"^model\.level_embed", "transformer.level_embed"),
    (r"^model\.(input_proj|reference_points)\.", r"\1."),
    (r"^model\.(enc_output|pos_trans)", r"proposals.\1"),
    # all
    (
        r"^model\.(?:encoder|decoder)\.layers",
        lambda m: m.group(0).replace("model.", "transformer.").replace(".layers", ""),
    ),
    (r"^model\.decoder\.layernorm", "transformer.norm"),
    (r"^model\.query_position_embeddings", "query_embed"),
    (r"^model\.input_projection", "input_proj"),
    (r"^class_labels_classifier", "class_embed"),
    (r"^bbox_predictor", "bbox_embed"),
    (r"encoder_attn_layer_norm", "cross_attn_norm"),
    (r"encoder_attn", "cross_attn"),
    (r"self_attn_layer_norm", "self_attn_norm"),
    (r"final_layer_norm", "ffn.norm"),
    (r"\.o_proj", ".out_proj"),
    (r"(?<!ffn)\.(?:mlp\.)?fc([12])", r".ffn.linear\1"),
]
_BACKBONE = [
    (r"^.*embedder\.embedder\.convolution", "backbone.stem.conv1"),
    (r"^.*embedder\.embedder\.normalization", "backbone.stem.conv1.norm"),
    (r"^.*encoder\.stages\.(\d)\.layers\.(\d)", lambda m: f"backbone.res{int(m.group(1)) + 2}.{m.group(2)}"),
    (r"shortcut\.convolution", "shortcut"),
    (r"shortcut\.normalization", "shortcut.norm"),
    (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m.group(1)) + 1}"),
    (r"layer\.(\d)\.normalization", lambda m: f"conv{int(m.group(1)) + 1}.norm"),
]
# The decoder's second names of the heads.
_ALIAS = re.compile(r"^model\.decoder\.(class|bbox)_embed")


def to_our_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename transformers' keys to this project's."""
    renamed = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked") or _ALIAS.match(key):
            continue
        new = key
        for pattern, replacement in _BACKBONE if "backbone" in key else _TRANSFORMER:
            new = re.sub(pattern, replacement, new)
        renamed[new] = value
    return renamed
