"""From a torch module to an ONNX graph."""

import io
import warnings

import onnx
import torch
from torch import Tensor

from fisher_detr.export.detector_graph import DetectorGraph

# The highest operator set of torch's tracing exporter. What the graphs are made of has the same meaning in
# all later sets that this package writes.
_TRACED_OPSET = 20
_IMAGES, _SIZES, _BATCH = "images", "sizes", "batch"


def trace_detector(graph: DetectorGraph, image: Tensor, padded: bool, opset: int) -> onnx.ModelProto:
    """Trace a detector; batch, height and width of the images stay variable.

    Args:
        graph: the detector.
        image: [3, H, W] of the size and values that are usual; shapes are traced on it.
        padded: the graph has the input `sizes`.
        opset: operator set of the result.
    """
    images = image.float()[None].repeat(2, 1, 1, 1)  # two: a batch of one would be traced as a constant
    sizes = torch.tensor([image.shape[-2:]] * 2) if padded else None
    inputs = {_IMAGES: images} | ({_SIZES: sizes} if padded else {})
    axes = {_IMAGES: {0: _BATCH, 2: "height", 3: "width"}, _SIZES: {0: _BATCH}}
    names = (*inputs, *graph.output_names)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are constants here, such as the number of channels
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            buffer,
            dynamo=False,
            opset_version=min(opset, _TRACED_OPSET),
            input_names=list(inputs),
            output_names=list(graph.output_names),
            dynamic_axes={name: axes.get(name, {0: _BATCH}) for name in names},
        )
    model = onnx.load_from_string(buffer.getvalue())
    _set_opset(model, opset)
    _hoist_constants(model.graph)
    return model


def _set_opset(model: onnx.ModelProto, opset: int) -> None:
    """Declare an operator set, and the file format that came with it."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)


def _hoist_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, which every node may read wherever it stands."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
