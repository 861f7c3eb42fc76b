"""What of a model is quantized and what is not, weight by weight and product by product."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fisher_detr.files import write_json
from fisher_detr.layers.attention import AttentionProducts
from fisher_detr.quantization.fake_quantizer import FakeQuantizer
from fisher_detr.quantization.layers import QuantAttentionProducts, QuantizedLayer
from fisher_detr.quantization.packed import packed_bytes
from fisher_detr.quantization.selection import BIAS, WeightGroup, is_product
from fisher_detr.quantization.tracing import TracedProduct

FLOAT_BITS = 32
NOT_QUANTIZED = "the model is in full precision"


@dataclasses.dataclass(frozen=True)
class WeightCoverage:
    """One parameter tensor.

    Attributes:
        name: parameter name.
        aliases: further names of the same tensor.
        shape: its shape.
        bits: width it is stored at; 32 in full precision.
        num_scales: number of scales; 0 in full precision.
        reason: why it is in full precision; empty when it is quantized.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    numel: int
    bits: int
    num_scales: int
    reason: str

    @property
    def size_bytes(self) -> int:
        """Bytes, packed at its width, with its scales."""
        return packed_bytes(self.numel, self.num_scales, self.bits)


@dataclasses.dataclass(frozen=True)
class ProductCoverage:
    """One matrix product (or convolution).

    Attributes:
        name: module path, with the operands where a module has several products.
        kind: class of the module, or operator, that computes it.
        operand_bits: widths of the operands: of input and weight, or of both activations; 32 in full
            precision.
        reason: why not all operands are quantized; empty when they are.
        macs: multiply-accumulates on the traced input; None where nothing was traced.
    """

    name: str
    kind: str
    operand_bits: tuple[int, int]
    reason: str
    macs: int | None = None

    @property
    def bit_operations(self) -> int | None:
        """Multiply-accumulates x bits of one operand x bits of the other."""
        return None if self.macs is None else self.macs * self.operand_bits[0] * self.operand_bits[1]


@dataclasses.dataclass(frozen=True)
class CoverageReport:
    """What is quantized.

    Attributes:
        weights: every parameter of at least two dimensions or of a convolution or linear layer, once.
        products: every product that a module of the model is known to compute.
        other_bytes: bytes of the other parameters and saved buffers (norms), in full precision.
        traced_size: height and width in pixels of the image that the products were counted on; None: none.
    """

    weights: tuple[WeightCoverage, ...]
    products: tuple[ProductCoverage, ...]
    other_bytes: int
    traced_size: tuple[int, int] | None = None

    @property
    def quantized(self) -> tuple[WeightCoverage, ...]:
        """The weights that are quantized."""
        return tuple(weight for weight in self.weights if not weight.reason)

    @property
    def quantized_bytes(self) -> int:
        """Bytes of the quantized weights and their scales: what a bit allocation promises."""
        return sum(weight.size_bytes for weight in self.quantized)

    @property
    def total_bytes(self) -> int:
        """Bytes of all parameters and saved buffers, without counters and ranges of activations (8 each)."""
        return sum(weight.size_bytes for weight in self.weights) + self.other_bytes

    @property
    def quantized_fraction(self) -> float:
        """Part of the listed weights that is quantized."""
        return sum(w.numel for w in self.quantized) / max(sum(w.numel for w in self.weights), 1)

    @property
    def average_bits(self) -> float:
        """Mean width over the quantized weights."""
        return sum(w.numel * w.bits for w in self.quantized) / max(sum(w.numel for w in self.quantized), 1)

    @property
    def bit_operations(self) -> int | None:
        """Of all products on the traced image; None where one of them was not counted."""
        counts = [product.bit_operations for product in self.products]
        return None if None in counts else sum(counts)

    def with_traced(
        self, traced: Mapping[str, Sequence[TracedProduct]], size: tuple[int, int] | None = None
    ) -> "CoverageReport":
        """Count the listed products in a forward pass, and add those computed outside of the listed modules.

        Args:
            traced: from `tracing.trace_products`.
            size: height and width of the image that was traced.
        """
        listed = [product.name.partition("[")[0] for product in self.products]
        counted = tuple(
            dataclasses.replace(
                product, macs=_macs(traced.get(name, ()), listed[:i].count(name), listed.count(name))
            )
            for i, (product, name) in enumerate(zip(self.products, listed, strict=True))
        )
        found = tuple(
            _traced_product(name, operator, [call for call in calls if call.operator == operator])
            for name, calls in traced.items()
            if name not in listed
            for operator in dict.fromkeys(call.operator for call in calls)
        )
        return dataclasses.replace(self, products=counted + found, traced_size=size)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the totals, as plain data."""
        totals = ("quantized_bytes", "total_bytes", "quantized_fraction", "average_bits", "bit_operations")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in totals}

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_json` atomically."""
        write_json(path, self.to_json())

    def __str__(self) -> str:
        """Render as a text table; biases are one row for each reason."""
        weights = [weight for weight in self.weights if len(weight.shape) >= 2]
        rows = [("weight", "shape", "bits", "bytes", "in full precision because")]
        rows += [(w.name, _shape(w.shape), str(w.bits), f"{w.size_bytes:,}", w.reason) for w in weights]
        rows += _vector_rows([weight for weight in self.weights if len(weight.shape) < 2])
        rows += [("other parameters and buffers", "", "", f"{self.other_bytes:,}", "")]
        products = [("product", "computed by", "operand bits", "in full precision because")]
        products += [(p.name, p.kind, "{} x {}".format(*p.operand_bits), p.reason) for p in self.products]
        return "\n".join([*_table(rows), "", *_table(products), "", self.summary()])

    def summary(self) -> str:
        """One line with the totals."""
        done = sum(not product.reason for product in self.products)
        return (
            f"{self.quantized_fraction:.1%} of the weights quantized, to {self.average_bits:.2f} bits on "
            f"average ({self.quantized_bytes:,} of {self.total_bytes:,} bytes), "
            f"{done} of {len(self.products)} products with both operands quantized"
        )


def coverage_report(model: nn.Module, groups: list[WeightGroup]) -> CoverageReport:
    """Report on a model.

    Args:
        model: after the swap, or in full precision.
        groups: its weights (`selection.weight_groups`).
    """
    weights = tuple(_weight(group) for group in groups)
    return CoverageReport(weights, _products(model, groups), _other_bytes(model, groups))


def _weight(group: WeightGroup) -> WeightCoverage:
    quantizer = None if group.reason else getattr(group.owners[0], "weight_quantizer", None)
    return WeightCoverage(
        name=group.names[0],
        aliases=group.names[1:],
        shape=tuple(group.parameter.shape),
        numel=group.parameter.numel(),
        bits=quantizer.spec.bits if quantizer else FLOAT_BITS,
        num_scales=quantizer.scale.numel() if quantizer else 0,
        reason="" if quantizer else group.reason or NOT_QUANTIZED,
    )


def _other_bytes(model: nn.Module, groups: list[WeightGroup]) -> int:
    """Bytes of the floats that a state dict holds beside the listed weights and quantizers, each once."""
    counted = {id(group.parameter) for group in groups}
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    counted |= {id(t) for module in quantizers for t in (*module.buffers(), *module.parameters())}
    others = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    floats = [t for key, t in others.items() if key not in counted and t.is_floating_point()]
    return sum(tensor.numel() * tensor.element_size() for tensor in floats)


def _products(model: nn.Module, groups: list[WeightGroup]) -> tuple[ProductCoverage, ...]:
    reasons = {id(owner): group.reason for group in groups for owner in group.owners if group.reason != BIAS}
    products = []
    for name, module in model.named_modules():
        if isinstance(module, AttentionProducts | nn.MultiheadAttention):
            products += _attention_products(name, module)
        elif is_product(module):
            products.append(_weight_product(name, module, reasons[id(module)]))
    return tuple(products)


def _weight_product(name: str, module: nn.Module, reason: str) -> ProductCoverage:
    input_bits = weight_bits = FLOAT_BITS
    if isinstance(module, QuantizedLayer):
        weight_bits = module.weight_quantizer.spec.bits
        input_bits = module.input_quantizer.spec.bits if module.input_quantizer else FLOAT_BITS
        reason = "" if module.input_quantizer else "activations: not requested"
    elif not reason:
        reason = NOT_QUANTIZED
    return ProductCoverage(name, type(module).__name__, (input_bits, weight_bits), reason)


def _attention_products(name: str, module: nn.Module) -> list[ProductCoverage]:
    bits, reason = FLOAT_BITS, "attention products: not requested"
    if isinstance(module, QuantAttentionProducts):
        bits, reason = module.query_quantizer.spec.bits, ""
    elif isinstance(module, nn.MultiheadAttention):
        reason = "fused inside nn.MultiheadAttention"
    kind = type(module).__name__
    names = (f"{name}[{operands}]" for operands in ("q k'", "p v"))
    return [ProductCoverage(product, kind, (bits, bits), reason) for product in names]


def _macs(calls: Sequence[TracedProduct], number: int = 0, count: int = 1) -> int | None:
    """Multiply-accumulates of one of the `count` products that a module computes in turn."""
    if any(call.macs is None for call in calls):
        return None
    return sum([macs for call in calls for macs in call.macs][number::count])


def _traced_product(name: str, operator: str, calls: Sequence[TracedProduct]) -> ProductCoverage:
    """What a module that is not listed computes by one operator."""
    bits = (FLOAT_BITS, FLOAT_BITS)
    return ProductCoverage(f"{name}[{operator}]", operator, bits, "computed outside of layers", _macs(calls))


def _vector_rows(vectors: list[WeightCoverage]) -> list[tuple[str, ...]]:
    """One row for the one-dimensional parameters of each reason."""
    rows = []
    for reason in dict.fromkeys(vector.reason for vector in vectors):
        same = [vector for vector in vectors if vector.reason == reason]
        size = sum(vector.size_bytes for vector in same)
        rows.append((f"{len(same)} biases", "", str(FLOAT_BITS), f"{size:,}", reason))
    return rows


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
