"""Integer weights in ONNX' types of 2, 4 and 8 bits."""

from collections.abc import Mapping

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from fisher_detr.export.integer_layers import LEVELS
from fisher_detr.export.onnx_graph import consumers
from fisher_detr.export.settings import container
from fisher_detr.quantization import pack_levels

PACKED_LEVELS = "packed_levels"  # those of weight-only products
_TYPES = {2: TensorProto.INT2, 4: TensorProto.INT4}


def pack_initializers(model: onnx.ModelProto, widths: Mapping[str, int]) -> None:
    """Store the levels of weights in the narrowest type that holds them, in place.

    onnxruntime has integer products of 8-bit weights only. So a narrower weight is stored packed and goes
    through Cast to INT8, which onnxruntime does once, when it loads the file.

    Args:
        model: traced, with `integer_levels` as initializers of int8.
        widths: in bits by the layer's path.
    """
    readers, casts = consumers(model.graph), []
    for tensor in model.graph.initializer:
        bits = widths.get(layer_of(tensor.name))
        if bits is None or container(bits) == 8 or not tensor.name.endswith(LEVELS):
            continue
        levels = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        tensor.data_type = _TYPES[container(bits)]
        tensor.raw_data = pack_levels(levels, container(bits)).numpy().tobytes()
        casts.append(_cast(tensor.name))
        for node in readers[tensor.name]:
            node.input[0] = casts[-1].output[0]
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def layer_of(initializer: str) -> str | None:
    """Path of the layer whose levels an initializer holds, in the detector; None: it holds something else."""
    path, _, last = initializer.rpartition(".")
    return path.partition(".")[2] if last in (LEVELS, PACKED_LEVELS) else None


def _cast(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [f"{name}_int8"], name=f"{name}/Cast", to=TensorProto.INT8)
