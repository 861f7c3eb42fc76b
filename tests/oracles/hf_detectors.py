"""transformers' detectors as oracles, built without a network; `hf_names` copies their states into ours."""

import copy

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
