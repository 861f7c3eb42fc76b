"""Files of weights alone, as they are shipped: packed where the model is quantized."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.checkpoint.query_rows import GROUPS_KEY
from fisher_detr.files import write_atomically
from fisher_detr.quantization import PACKED_SUFFIX, quantized_layers, save_packed


def weights_name(name: str, model: nn.Module) -> str:
    """File name of the weights of a model."""
    return name + (PACKED_SUFFIX if quantized_layers(model) else ".pth")


def save_weights(
    folder: str | os.PathLike, name: str, model: nn.Module, info: Mapping[str, Any], half: bool = False
) -> Path:
    """Write the weights of a model without optimizer and schedule.

    Args:
        folder: where to.
        name: of the file, without its ending.
        model: quantized and calibrated, or in full precision.
        info: JSON to store beside them: config, categories.
        half: store what is not quantized in float16, which rounds it; a model that reads it has float32.

    Returns:
        the file, which MODEL.WEIGHTS takes.
    """
    path = Path(folder, weights_name(name, model))
    groups = {GROUPS_KEY: groups} if (groups := getattr(model, GROUPS_KEY, None)) else {}
    if quantized_layers(model):
        save_packed(path, model.state_dict(), {**info, **groups}, half)
    else:
        weights = {key: _stored(tensor, half).contiguous() for key, tensor in model.state_dict().items()}
        write_atomically(
            path, lambda file: torch.save({"model": weights, **groups, "info": dict(info)}, file)
        )
    return path


def _stored(tensor: Tensor, half: bool) -> Tensor:
    return tensor.half() if half and tensor.is_floating_point() else tensor
