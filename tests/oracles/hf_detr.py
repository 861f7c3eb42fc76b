"""transformers' DETR as an oracle: built without a network, and its state copied into ours."""

import re

import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig


def build_hf_detr(
    num_classes: int, *, depths=(2, 2, 2, 2), queries=10, dim=32, layers=2, heads=4
) -> nn.Module:
    """A random DETR on a ResNet of basic blocks, batch norm statistics not trivial.

    `auxiliary_loss` stays off: with it transformers 5.23 feeds every decoder layer the normalized output of
    the one before it, which the original DETR does not.
    """
    backbone = ResNetConfig(
        layer_type="basic", depths=list(depths), hidden_sizes=[64, 128, 256, 512], out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_labels=num_classes,
        num_queries=queries,
        d_model=dim,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=2 * dim,
        decoder_ffn_dim=2 * dim,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    model = DetrForObjectDetection(config).eval()
    randomize(model)
    return model


def randomize(model: nn.Module) -> None:
    """Make norms and biases count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))


_TRANSFORMER = [
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


def to_our_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename transformers' keys to this project's."""
    renamed = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        new = key
        for pattern, replacement in _BACKBONE if "backbone" in key else _TRANSFORMER:
            new = re.sub(pattern, replacement, new)
        renamed[new] = value
    return renamed
