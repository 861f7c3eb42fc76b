"""From a detector to an ONNX file."""

import copy
import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from fisher_detr.export.containers import pack_initializers
from fisher_detr.export.conv_outputs import quantize_conv_outputs
from fisher_detr.export.detector_graph import DetectorGraph
from fisher_detr.export.integer_layers import use_integer_layers
from fisher_detr.export.onnx_graph import Feed
from fisher_detr.export.runtime import METADATA
from fisher_detr.export.settings import ExportSettings, Precision
from fisher_detr.export.tracing import trace_detector
from fisher_detr.files import write_atomically
from fisher_detr.quantization import quantized_layers

logger = logging.getLogger(__name__)


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike,
    images: Iterable[Tensor],
    settings: ExportSettings = ExportSettings(),  # noqa: B008 - frozen
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a detector to an ONNX file, atomically.

    Args:
        model: of `fisher_detr.modeling`, on the processor; unchanged.
        path: of the file.
        images: [3, H, W] as the model takes them; the first gives the usual size, and an integer export takes
            the ranges of convolutions' outputs from all.
        settings: what the file is to be.
        info: JSON to store beside it.

    Returns:
        what is stored in the file's metadata.

    Raises:
        ValueError: the model does not fit the settings, or there is no image.
    """
    images = [image.float() for image in images]
    if not images:
        raise ValueError("no image to trace the model on: give at least one")
    _check_quantized(model, settings.precision)
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    copied.deep_supervision = False  # the outputs of the last layer alone
    widths = {}
    weight_only = settings.precision is Precision.WEIGHT_ONLY
    if settings.precision is not Precision.FLOAT:
        widths = use_integer_layers(copied, settings.reduce_range, weight_only)
    opset = settings.opset_for(widths.values())
    graph = DetectorGraph(copied, settings.post_processing)
    exported = trace_detector(graph, images[0], settings.padded, opset)
    if settings.precision is Precision.INTEGER:
        added = quantize_conv_outputs(exported, (feed_of(image, settings.padded) for image in images))
        logger.info("%d outputs of convolutions are quantized for onnxruntime in addition", added)
    pack_initializers(exported, widths, weight_only)
    stored = _describe(copied, settings, widths, opset) | dict(info or {})
    onnx.helper.set_model_props(exported, {METADATA: json.dumps(stored)})
    onnx.checker.check_model(exported)
    content = exported.SerializeToString()
    write_atomically(path, lambda file: file.write(content))
    return stored


def feed_of(image: Tensor, padded: bool) -> Feed:
    """Inputs of an exported model for one image [3, H, W]."""
    feed = {"images": image.float()[None]}
    if padded:
        feed["sizes"] = torch.tensor([image.shape[-2:]])
    return {name: tensor.numpy() for name, tensor in feed.items()}


def _check_quantized(model: nn.Module, precision: Precision) -> None:
    quantized = quantized_layers(model)
    if precision is Precision.FLOAT and quantized:
        raise ValueError(
            f"the model is quantized and precision is {precision}: ask for {Precision.INTEGER} or "
            f"{Precision.WEIGHT_ONLY}, or export the checkpoint in full precision"
        )
    if precision is not Precision.FLOAT and not quantized:
        raise ValueError(
            f"the model has no quantizers and precision is {precision}: quantize it first, or export it in "
            f"{Precision.FLOAT}"
        )


def _describe(
    model: nn.Module, settings: ExportSettings, widths: Mapping[str, int], opset: int
) -> dict[str, Any]:
    return {
        "architecture": type(model).__name__,
        "num_classes": model.num_classes,
        "top_k": model.top_k,
        "precision": str(settings.precision),
        "opset": opset,
        "post_processing": settings.post_processing,
        "padded": settings.padded,
        "reduce_range": settings.reduce_range,
        "weight_bits": dict(widths),
    }
