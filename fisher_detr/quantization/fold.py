"""Batch norm as constants: frozen, or folded into the convolution before it."""

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from fisher_detr.quantization.layers import QuantizedLayer

_BATCH_NORMS = nn.BatchNorm2d | nn.SyncBatchNorm


def freeze_batch_norm(model: nn.Module) -> nn.Module:
    """Replace batch norm by `FrozenBatchNorm2d`, in place; the outputs of eval mode stay the same.

    Returns:
        nn.Module: `model`, or its replacement where it is itself a batch norm.
    """
    return FrozenBatchNorm2d.convert_frozen_batchnorm(model)


@torch.no_grad()
def fold_batch_norm(model: nn.Module) -> tuple[str, ...]:
    """Fold the batch norm of every `detectron2.layers.Conv2d` into its weight and bias, in place.

    With `y = gamma (W x + b - mean) / sqrt(var + eps) + beta`, weight and bias become `s W` and `s (b - mean)
    + beta`, where `s = gamma / sqrt(var + eps)` for each output channel. The layer's `norm` is then None: the
    keys `<layer>.norm.*` leave the state dict, and `<layer>.bias` enters it. Other norms stay.

    Args:
        model: a float model whose batch norms are frozen or in eval mode.

    Returns:
        tuple: names of the layers that were folded.

    Raises:
        ValueError: a batch norm is in training mode or has no running statistics, or the layer is quantized
            already.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Conv2d) and isinstance(module.norm, FrozenBatchNorm2d | _BATCH_NORMS)
    }
    for name, layer in layers.items():
        _check(name, layer)
    for layer in layers.values():
        _fold(layer)
    return tuple(layers)


def _check(name: str, layer: Conv2d) -> None:
    norm = layer.norm
    if isinstance(layer, QuantizedLayer):
        raise ValueError(f"{name} is quantized already: fold batch norm before quantize_model")
    if isinstance(norm, _BATCH_NORMS) and (norm.training or norm.running_mean is None):
        raise ValueError(
            f"{name}.norm normalises by the statistics of its batch: freeze it, or call model.eval()"
        )


def _fold(layer: Conv2d) -> None:
    norm, dtype, trained = layer.norm, layer.weight.dtype, layer.weight.requires_grad
    # In double precision, so that folding adds no error of its own.
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean
    if norm.weight is not None:
        factor = factor * norm.weight
    bias = factor * shift if norm.bias is None else factor * shift + norm.bias
    # New parameters: another layer may share the weight and have a norm of its own.
    layer.weight = nn.Parameter((layer.weight * factor[:, None, None, None]).to(dtype), requires_grad=trained)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=trained)
    layer.norm = None
