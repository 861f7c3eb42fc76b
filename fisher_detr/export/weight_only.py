"""Linear layers of packed weights and float inputs, as onnxruntime's operator for them."""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from fisher_detr.export.containers import PACKED_LEVELS, layer_of
from fisher_detr.export.onnx_graph import producers
from fisher_detr.export.settings import container
from fisher_detr.quantization import pack_levels

OPERATOR, _DOMAIN = "MatMulNBits", "com.microsoft"
# Inputs that share a scale; these powers of two have kernels. All blocks of an output have its one scale.
_MIN_BLOCK, _MAX_BLOCK = 16, 256
_FLOAT_SUMS = 1  # accuracy_level: sums of float32, not of 8-bit inputs


def use_packed_products(model: onnx.ModelProto, widths: Mapping[str, int]) -> None:
    """Turn matrix products of dequantized weights into MatMulNBits, in place.

    onnxruntime would do so itself where DequantizeLinear has one reader, and not where several layers share
    a weight; and it would quantize the inputs unless the session says otherwise.

    Args:
        model: traced, weight-only.
        widths: in bits by the layer's path.
    """
    graph, made_by = model.graph, producers(model.graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        dequantize = made_by.get(node.input[1]) if node.op_type == "MatMul" else None
        if dequantize is not None and layer_of(dequantize.input[0]) in widths:
            _replace(node, *dequantize.input[:2], constants, container(widths[layer_of(dequantize.input[0])]))
    _sweep(graph, constants)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))


def _replace(
    node: onnx.NodeProto, levels: str, scale: str, constants: dict[str, onnx.TensorProto], bits: int
) -> None:
    """Let a product read the packed weight, which is made at the first product that does."""
    packed, scales = f"{levels.rpartition('.')[0]}.{PACKED_LEVELS}", f"{scale}.blocks"
    in_features, out_features = constants[levels].dims
    block = min(_MAX_BLOCK, max(_MIN_BLOCK, 1 << (int(in_features) - 1).bit_length()))
    if packed not in constants:
        values = numpy_helper.to_array(constants[levels]).T  # [out_features, in_features]
        arrays = _pack(values, bits, block), _repeat(numpy_helper.to_array(constants[scale]), values, block)
        for name, array in zip((packed, scales), arrays, strict=True):
            constants[name] = numpy_helper.from_array(array, name)
    node.CopyFrom(
        helper.make_node(
            OPERATOR,
            [node.input[0], packed, scales],
            node.output,
            name=node.name,
            domain=_DOMAIN,
            K=in_features,
            N=out_features,
            bits=bits,
            block_size=block,
            accuracy_level=_FLOAT_SUMS,
        )
    )


def _pack(levels: np.ndarray, bits: int, block: int) -> np.ndarray:
    """Bytes [out_features, blocks, bytes of a block]; levels are counted from the least."""
    padded = np.pad(levels, ((0, 0), (0, -levels.shape[1] % block)))
    signed = torch.from_numpy(padded).to(torch.int16)
    middle = 2 ** (bits - 1)
    # The same bits as `signed + middle` has without a sign, as signed ones, which `pack_levels` takes.
    flipped = torch.where(signed >= 0, signed - middle, signed + middle)
    return pack_levels(flipped, bits).numpy().reshape(len(levels), -1, block * bits // 8)


def _repeat(scale: np.ndarray, levels: np.ndarray, block: int) -> np.ndarray:
    """The scale of every block, [out_features, blocks]."""
    return np.repeat(scale[:, None], -(-levels.shape[1] // block), axis=1)


def _sweep(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Drop what nothing reads any more, and add the new constants."""
    read = {name for node in graph.node for name in node.input}
    kept = [x for x in graph.node if x.op_type != "DequantizeLinear" or x.output[0] in read]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in graph.node for name in node.input}
    tensors = [tensor for name, tensor in constants.items() if name in read]
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
