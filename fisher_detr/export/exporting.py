"""From a detector to an ONNX file that was compared with it."""

import contextlib
import copy
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from fisher_detr.export.audit import Audit, audit
from fisher_detr.export.containers import pack_initializers
from fisher_detr.export.conv_outputs import quantize_conv_outputs
from fisher_detr.export.detector_graph import DetectorGraph
from fisher_detr.export.integer_layers import REDUCED_BITS, reduce_weight_range, use_integer_layers
from fisher_detr.export.onnx_graph import Feed, shorten_names
from fisher_detr.export.runtime import METADATA, OnnxDetector
from fisher_detr.export.settings import ExportSettings, Precision
from fisher_detr.export.tracing import trace_detector
from fisher_detr.export.verification import (
    FLOAT_TOLERANCE,
    INTEGER_TOLERANCE,
    Comparison,
    Tolerance,
    compare_detectors,
)
from fisher_detr.export.weight_only import use_packed_products
from fisher_detr.files import write_atomically
from fisher_detr.quantization import ActivationQuantizer, bypassed, quantized_layers

logger = logging.getLogger(__name__)

_PADDED_BATCH = 4  # images that are compared together where the file takes padding


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        size_bytes: of the file.
        info: what is stored in its metadata.
        audit: in what onnxruntime computes it here.
        comparison: with the model; None: not compared.
    """

    size_bytes: int
    info: dict[str, Any]
    audit: Audit
    comparison: Comparison | None


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike,
    images: Sequence[dict[str, Any]],
    settings: ExportSettings = ExportSettings(),  # noqa: B008 - frozen
    *,
    range_images: Sequence[dict[str, Any]] | None = None,
    verify: bool = True,
    tolerance: Tolerance | None = None,
    info: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write a detector to an ONNX file, atomically, if the file finds what the detector finds.

    Args:
        model: of `fisher_detr.modeling`, on the processor; unchanged.
        path: of the file.
        images: real inputs of the model, on which file and model are compared; the first one's size is the
            usual one.
        settings: what the file is to be.
        range_images: inputs from which an integer export takes the ranges of convolutions' outputs; None:
            `images`.
        verify: compare.
        tolerance: within which they have to agree; None: `FLOAT_TOLERANCE`, or `INTEGER_TOLERANCE`.
        info: JSON to store beside the rest of the file's metadata.

    Raises:
        ValueError: the model does not fit the settings, or there is no image.
        ExportMismatch: file and model differ; nothing is written.
    """
    if not images:
        raise ValueError("no image to export with: give real ones, on which file and model are compared")
    _check_quantized(model, settings.precision)
    model = _in_range(model, settings)  # what the file is compared with has the same weights
    exported, described = _build(model, images, range_images, settings, info)
    content = exported.SerializeToString()
    comparison = None
    if verify:
        tolerance = tolerance or _tolerance(settings.precision)
        batches = _padded_batches(images) if settings.padded else [[x] for x in images]
        with torch.no_grad(), _as_exported(model, settings.precision):
            comparison = compare_detectors(model, OnnxDetector(content), batches, tolerance)
        comparison.require()
    found = audit(content, feed_of(images[0]["image"], settings.padded))
    write_atomically(path, lambda file: file.write(content))
    return ExportResult(len(content), described, found, comparison)


def onnx_bytes(model: nn.Module, images: Sequence[dict[str, Any]], settings: ExportSettings) -> bytes:
    """Content of a file that is compared with nothing: to be looked at, not to be used.

    Arguments and errors as for `export_onnx`.
    """
    _check_quantized(model, settings.precision)
    return _build(_in_range(model, settings), images, None, settings)[0].SerializeToString()


def _in_range(model: nn.Module, settings: ExportSettings) -> nn.Module:
    """The model, or a copy whose weights of 8 bits have 7."""
    widths = {layer.weight_quantizer.spec.bits for layer in quantized_layers(model).values()}
    if not settings.reduces_range or max(widths, default=0) <= REDUCED_BITS:
        return model
    if settings.reduce_range is None:
        logger.warning(
            "This processor has no VNNI: sums of 8-bit products saturate on it, so 8-bit weights are "
            "exported in 7"
        )
    model = copy.deepcopy(model)
    reduce_weight_range(model)
    return model


def _build(
    model: nn.Module,
    images: Sequence[dict[str, Any]],
    range_images: Sequence[dict[str, Any]] | None,
    settings: ExportSettings,
    info: Mapping[str, Any] | None = None,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The ONNX model, not compared with anything, and its metadata; arguments as in `export_onnx`."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    copied.deep_supervision = False  # the outputs of the last layer alone
    weight_only = settings.precision is Precision.WEIGHT_ONLY
    widths = {}
    if settings.precision is not Precision.FLOAT:
        widths = use_integer_layers(copied, weight_only)
    opset = settings.opset_for(widths.values())
    graph = DetectorGraph(copied, settings.post_processing)
    exported = trace_detector(graph, images[0]["image"], settings.padded, opset)
    if settings.precision is Precision.INTEGER:
        feeds = (feed_of(x["image"], settings.padded) for x in range_images or images)
        added = quantize_conv_outputs(exported, feeds)
        logger.info("%d outputs of convolutions are quantized in addition, for onnxruntime", added)
    if weight_only:
        use_packed_products(exported, widths)
    pack_initializers(exported, widths)
    shorten_names(exported.graph)
    described = _describe(copied, settings, widths, opset) | dict(info or {})
    onnx.helper.set_model_props(exported, {METADATA: json.dumps(described)})
    onnx.checker.check_model(exported)
    return exported, described


def feed_of(image: Tensor, padded: bool) -> Feed:
    """Inputs of an exported model for one image [3, H, W]."""
    feed = {"images": image.float()[None]}
    if padded:
        feed["sizes"] = torch.tensor([image.shape[-2:]])
    return {name: tensor.numpy() for name, tensor in feed.items()}


def _padded_batches(images: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Batches whose images have several sizes: each but the first is cut at its right and lower edge."""
    batches = []
    for start in range(0, len(images), _PADDED_BATCH):
        batch = []
        for cut, inputs in enumerate(images[start : start + _PADDED_BATCH]):
            height, width = (n - cut * n // 16 for n in inputs["image"].shape[-2:])
            part = inputs["image"][:, :height, :width]
            batch.append({"image": part, "height": height, "width": width})
        batches.append(batch)
    return batches


def _tolerance(precision: Precision) -> Tolerance:
    return INTEGER_TOLERANCE if precision is Precision.INTEGER else FLOAT_TOLERANCE


@contextlib.contextmanager
def _as_exported(model: nn.Module, precision: Precision) -> Iterator[None]:
    """The model as the file is to be: weight-only files have float activations."""
    with contextlib.ExitStack() as stack:
        if precision is Precision.WEIGHT_ONLY:
            stack.enter_context(bypassed(model, ActivationQuantizer))
        yield


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
        "reduce_range": settings.reduces_range,
        "weight_bits": dict(widths),
    }
