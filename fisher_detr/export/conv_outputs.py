"""Quantizes what convolutions give, without which onnxruntime computes them in float.

onnxruntime has one fast integer convolution, QLinearConv, whose output is integers. So every quantized
convolution needs QuantizeLinear behind it (or behind its ReLU). Where the only reader is a quantized layer
that is there already; elsewhere (residual sums) it is inserted.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fisher_detr.export.onnx_graph import Feed, consumers, producers, run_for

_LEVELS = 255
# What chooses among values: a quantized input stays quantized.
_TRANSPARENT = ("MaxPool",)
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def quantize_conv_outputs(model: onnx.ModelProto, feeds: Iterable[Feed]) -> int:
    """Insert what is missing behind quantized convolutions, in place.

    Args:
        model: with quantized inputs and weights of convolutions.
        feeds: inputs of images, from which ranges are taken: least to greatest value.

    Returns:
        number of tensors that are quantized in addition to what the quantized model rounds.
    """
    readers = consumers(model.graph)
    outputs = [_activated(node, readers) for node in _quantized_convolutions(model.graph)]
    missing = [name for name in outputs if not _is_quantized(name, readers)]
    known = {name: found for name in missing if (found := _parameters_behind(name, readers))}
    ranges = _ranges(model, [name for name in missing if name not in known], feeds)
    for name, (low, high) in ranges.items():
        known[name] = _add_parameters(model.graph, name, low, high)
    for name in missing:
        _insert(model.graph, name, known[name])
    return len(missing)


def _quantized_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    made_by = producers(graph)

    def is_dequantized(name: str) -> bool:
        return name in made_by and made_by[name].op_type == _DEQUANTIZE

    return [n for n in graph.node if n.op_type == "Conv" and all(map(is_dequantized, n.input[:2]))]


def _activated(convolution: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """Output of a convolution, or of the ReLU that alone reads it."""
    name = convolution.output[0]
    after = readers.get(name, [])
    return after[0].output[0] if len(after) == 1 and after[0].op_type == "Relu" else name


def _is_quantized(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    after = readers.get(name, [])
    return len(after) == 1 and after[0].op_type == _QUANTIZE


def _parameters_behind(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> tuple[str, str] | None:
    """Scale and zero point of a quantizer that reads a tensor, or the greatest values of it."""
    for node in readers.get(name, []):
        if node.op_type == _QUANTIZE:
            return node.input[1], node.input[2]
        if node.op_type in _TRANSPARENT and (found := _parameters_behind(node.output[0], readers)):
            return found
    return None


def _ranges(
    model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feed]
) -> dict[str, tuple[float, float]]:
    """Least and greatest value over all images, 0 included."""
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for tensors in run_for(model, names, feeds) if names else ():
        for name, tensor in tensors.items():
            low, high = ranges[name]
            ranges[name] = min(low, float(tensor.min())), max(high, float(tensor.max()))
    return ranges


def _add_parameters(graph: onnx.GraphProto, name: str, low: float, high: float) -> tuple[str, str]:
    scale = max((high - low) / _LEVELS, float(np.finfo(np.float32).tiny))
    names = f"{name}_output_scale", f"{name}_output_zero_point"
    values = np.float32(scale), np.uint8(round(-low / scale))
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for v, n in zip(values, names, strict=True)
    )
    return names


def _insert(graph: onnx.GraphProto, name: str, parameters: tuple[str, str]) -> None:
    """Let all readers of a tensor read it quantized."""
    levels, values = f"{name}_levels", f"{name}_dequantized"
    for node in graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = values
    place = next(i for i, node in enumerate(graph.node) if name in node.output) + 1
    graph.node.insert(
        place, helper.make_node(_DEQUANTIZE, [levels, *parameters], [values], name=f"{name}/{_DEQUANTIZE}")
    )
    graph.node.insert(
        place, helper.make_node(_QUANTIZE, [name, *parameters], [levels], name=f"{name}/{_QUANTIZE}")
    )
