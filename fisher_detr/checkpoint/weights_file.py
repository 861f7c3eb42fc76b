"""Files of weights alone, as they are shipped: packed where the model is quantized."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fisher_detr.checkpoint.query_rows import GROUPS_KEY
from fisher_detr.files import write_atomically
from fisher_detr.quantization import PACKED_SUFFIX, quantized_layers, save_packed


def weights_name(name: str, model: nn.Module) -> str:
    """File name of the weights of a model."""
    return name + (PACKED_SUFFIX if quantized_layers(model) else ".pth")


def save_weights(folder: str | os.PathLike, name: str, model: nn.Module, info: Mapping[str, Any]) -> Path:
    """Write the weights of a model without optimizer and schedule.

    Args:
        folder: where to.
        name: of the file, without its ending.
        model: quantized and calibrated, or in full precision.
        info: JSON to store beside them: config, categories.

    Returns:
        the file, which MODEL.WEIGHTS takes.
    """
    path = Path(folder, weights_name(name, model))
    groups = {GROUPS_KEY: groups} if (groups := getattr(model, GROUPS_KEY, None)) else {}
    if quantized_layers(model):
        save_packed(path, model.state_dict(), {**info, **groups})
    else:
        weights = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        write_atomically(
            path, lambda file: torch.save({"model": weights, **groups, "info": dict(info)}, file)
        )
    return path
