"""In what onnxruntime computes every convolution and matrix product of a file, and why."""

import dataclasses
import enum
import itertools
import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fisher_detr.export.containers import layer_of
from fisher_detr.export.onnx_graph import Feed, consumers, open_session, producers, run_for, session_options

_PRODUCTS = ("Conv", "MatMul", "MatMulNBits", "Gemm", "Einsum", "ConvTranspose")
_INTEGER = {
    *("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"),
    "DynamicQuantizeMatMul",
}
_PACKED = {"MatMulNBits"}
_FLOAT = {
    *("Conv", "FusedConv", "NhwcFusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Einsum"),
    *("ConvTranspose", "MultiHeadAttention", "Attention"),
}
# What stands between a weight and its product.
_PASSED = {"DequantizeLinear", "Cast", "Transpose", "Identity", "Mul"}
_SUFFIX = re.compile(r"_token_\d+$")


class Arithmetic(enum.StrEnum):
    """What a product multiplies."""

    INTEGER = "integer"
    WEIGHT_ONLY = "float, weight unpacked"  # packed weights are turned into floats as they are multiplied
    FLOAT = "float"


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One convolution or matrix product.

    Attributes:
        name: path in the model.
        operator: onnxruntime's, after its optimizer.
        arithmetic: what it multiplies.
        weight: type of the stored weight; "" for a product of activations.
        macs: multiply-accumulates on one image.
        reason: why it is not of integers; "" where it is.
        node: its name in the graph that onnxruntime runs.
    """

    name: str
    operator: str
    arithmetic: Arithmetic
    weight: str
    macs: int
    reason: str
    node: str = ""


@dataclasses.dataclass(frozen=True)
class Audit:
    """All products of a file, in the order of the graph."""

    rows: tuple[AuditRow, ...]

    def coverage(self, arithmetic: Arithmetic = Arithmetic.INTEGER) -> float:
        """Part of the multiply-accumulates of one image."""
        total = sum(row.macs for row in self.rows)
        return sum(row.macs for row in self.rows if row.arithmetic is arithmetic) / max(1, total)

    def summary(self) -> str:
        """One line."""
        parts = []
        for kind in Arithmetic:
            count = sum(row.arithmetic is kind for row in self.rows)
            if count or kind is Arithmetic.INTEGER:
                parts.append(f"{count} {kind} ({self.coverage(kind):.1%} of multiply-accumulates)")
        return f"{len(self.rows)} products: {', '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        """Plain JSON: `coverage`, a part by arithmetic, and `products`, the fields of every row."""
        return {
            "coverage": {str(kind): self.coverage(kind) for kind in Arithmetic},
            "products": [dataclasses.asdict(row) | {"arithmetic": str(row.arithmetic)} for row in self.rows],
        }

    def __str__(self) -> str:
        """The table and its summary."""
        width = max((len(row.name) for row in self.rows), default=4)
        lines = [f"{'product':<{width}}  {'operator':<20}  {'weight':<7}  {'MACs':>12}  arithmetic"]
        for row in self.rows:
            why = f": {row.reason}" if row.reason else ""
            lines.append(
                f"{row.name:<{width}}  {row.operator:<20}  {row.weight:<7}  {row.macs:>12,}  "
                f"{row.arithmetic}{why}"
            )
        return "\n".join([*lines, self.summary()])


def audit(model: str | os.PathLike | bytes, feed: Feed) -> Audit:
    """Look at what onnxruntime makes of a model on this machine.

    Args:
        model: path of a file, or its content.
        feed: inputs of one image, on which multiply-accumulates are counted.
    """
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    model = onnx.load_from_string(content)
    run = {plain_name(node.name): node for node in _optimized(content).graph.node}
    macs = _count_macs(model, feed)
    made_by, types = producers(model.graph), {x.name: x.data_type for x in model.graph.initializer}
    readers, rows = consumers(model.graph), []
    for node in model.graph.node:
        if node.op_type in _PRODUCTS:
            outputs = (node.output[0], *(x.output[0] for x in readers.get(node.output[0], [])))
            found = _find([node.name, *(f"{output}_nchwc" for output in outputs)], run)
            weight = _weight_of(node, made_by, types)
            rows.append(_row(node, found, weight, types, macs[node.output[0]]))
    return Audit(tuple(rows))


def plain_name(node: str) -> str:
    """A node's name without what onnxruntime numbers it by, which changes from session to session."""
    return _SUFFIX.sub("", node)


def _optimized(content: bytes) -> onnx.ModelProto:
    """The graph that onnxruntime runs."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        open_session(content, options)
        return onnx.load(options.optimized_model_filepath)


def _find(names: Sequence[str], run: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that a product has become.

    Fusions keep its name or append to it; a float convolution is called by its output, or by that of the
    activation it is fused with.
    """
    known = {key: node for key, node in run.items() if node.op_type in _INTEGER | _PACKED | _FLOAT}
    exact = (known[name] for name in names if name in known)
    longer = (node for key, node in known.items() if key.startswith(f"{names[0]}/"))
    return next(itertools.chain(exact, longer), None)


def _weight_of(node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], known: Collection[str]) -> str:
    """The initializer that a product multiplies by; "" for one of activations."""
    for name in node.input:
        while name in made_by and made_by[name].op_type in _PASSED:
            name = made_by[name].input[0]
        if name in known:
            return name
    return ""


def _row(
    node: onnx.NodeProto, found: onnx.NodeProto | None, weight: str, types: Mapping[str, int], macs: int
) -> AuditRow:
    operator = found.op_type if found is not None else "?"
    if operator in _INTEGER:
        arithmetic, reason = Arithmetic.INTEGER, ""
    elif operator in _PACKED:
        arithmetic, reason = Arithmetic.WEIGHT_ONLY, "activations are not quantized"
    else:
        arithmetic, reason = Arithmetic.FLOAT, _why_float(found, weight)
    name = layer_of(weight) or node.name.strip("/").removesuffix(f"/{node.op_type}").replace("/", ".")
    kind = onnx.TensorProto.DataType.Name(types[weight]) if weight else ""
    if node.op_type in _PACKED:  # bytes, of which an attribute says what they hold
        kind = f"INT{next(x.i for x in node.attribute if x.name == 'bits')}"
    ran_as = plain_name(found.name) if found is not None else ""
    return AuditRow(name, operator, arithmetic, kind, macs, reason, ran_as)


def _why_float(found: onnx.NodeProto | None, weight: str) -> str:
    if found is None:
        return "fused by onnxruntime into an operator that this audit does not know"
    if not weight:
        return "product of activations that are not quantized (QUANT.ATTENTION_PRODUCTS)"
    if layer_of(weight) is None:
        return "the layer is in full precision (QUANT.SKIP_LAYERS, or a float32 export)"
    return "onnxruntime found no integer kernel for it: its input or its output is not quantized"


def _count_macs(model: onnx.ModelProto, feed: Feed) -> dict[str, int]:
    """Multiply-accumulates of every product on one image, by its output."""
    nodes = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    names = [name for node in nodes for name in (*node.input[:2], node.output[0])]
    weights = {tensor.name for tensor in model.graph.initializer}
    (tensors,) = run_for(model, [name for name in names if name not in weights], [feed])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {node.output[0]: _macs(node, shapes) for node in nodes}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    left, right, output = (shapes[name] for name in (*node.input[:2], node.output[0]))
    inner = int(np.prod(right[1:])) if "Conv" in node.op_type else left[-1]
    return int(np.prod(output)) * inner
