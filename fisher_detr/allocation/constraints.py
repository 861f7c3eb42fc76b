"""What a plan may use at most: bytes, bytes in containers, bit operations, time.

A constraint is the usage of every layer at every width and a limit on the sum over the layers.
"""

import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fisher_detr.files import read_json
from fisher_detr.structures import LayerInfo

FLOAT_BITS = 32  # what an activation counts that is not quantized
_CONTAINERS = (2, 4, 8)  # widths that hardware and ONNX store
# A sum of fractions may exceed its limit by this part, which is rounding. Sums of whole numbers are exact.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A limit on the sum over the layers.

    Attributes:
        name: for messages ("budget").
        usage: of every layer at every width, `[L, W]`, finite and not negative.
        limit: largest sum; held exactly where all usage is in whole numbers, else to rounding.
        unit: of usage and limit ("bytes").
    """

    name: str
    usage: np.ndarray
    limit: float
    unit: str

    def __post_init__(self):
        if not np.isfinite(self.usage).all() or (self.usage < 0).any():
            raise ValueError(
                f"{self.name} uses from {np.min(self.usage):g} to {np.max(self.usage):g} {self.unit}: "
                "expected finite numbers that are not negative"
            )
        if not abs(self.limit) <= sys.float_info.max:  # a whole number may be larger, NaN is not
            raise ValueError(
                f"{self.name} has the limit {self.limit}: expected a finite number of {self.unit}"
            )

    def __str__(self) -> str:
        return f"{self.name} of {amount(self.limit)} {self.unit}"

    @property
    def largest_sum(self) -> float:
        """What the sum over the layers may come to."""
        whole = bool((self.usage == np.floor(self.usage)).all())
        return float(math.floor(self.limit)) if whole else self.limit + _ROUNDING * abs(self.limit)


def byte_limit(
    layers: Sequence[LayerInfo], widths: Sequence[int], limit: float, name: str = "budget"
) -> Constraint:
    """Bytes of packed weights and their scales.

    Args:
        layers: L layers.
        widths: W widths in bits.
        limit: bytes.
        name: for messages.
    """
    return Constraint(name, byte_sizes(layers, widths), limit, "bytes")


def byte_sizes(layers: Sequence[LayerInfo], widths: Sequence[int]) -> np.ndarray:
    """Bytes of packed weights and their scales, `[L, W]` whole numbers."""
    return np.array([[layer.size_bytes(bits) for bits in widths] for layer in layers], dtype=np.int64)


def container_limit(
    layers: Sequence[LayerInfo], widths: Sequence[int], limit: float, name: str = "container size"
) -> Constraint:
    """Bytes where a weight of 2 bits takes 2, one of 3 or 4 takes 4, one of 5 to 8 takes 8; with scales."""
    stored = [next(size for size in _CONTAINERS if size >= bits) for bits in widths]
    return Constraint(name, byte_sizes(layers, stored), limit, "bytes")


def bit_operation_limit(
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    macs: Mapping[str, int],
    activation_bits: int,
    limit: float,
    name: str = "work",
) -> Constraint:
    """Bit operations: multiply-accumulates x bits of the weight x bits of the activation.

    Args:
        layers: L layers.
        widths: W widths in bits.
        macs: multiply-accumulates by layer, of one image or whatever the limit is for.
        activation_bits: of the inputs; 0: they are floats and count as 32.
        limit: bit operations.
        name: for messages.

    Raises:
        ValueError: a layer has no count, or the activations have a negative width.
    """
    if activation_bits < 0:
        raise ValueError(f"activations of {activation_bits} bits: expected 0 for float, or a width")
    _require_layers(layers, macs, "count of multiply-accumulates")
    per_bit = np.array([macs[layer.name] for layer in layers]) * (activation_bits or FLOAT_BITS)
    return Constraint(name, per_bit[:, None] * np.array(widths), limit, "bit operations")


def latency_limit(
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    table: Mapping[str, Mapping[int, float]],
    limit: float,
    unit: str = "ms",
    name: str = "latency",
) -> Constraint:
    """Time from a table: the sum of what each layer takes at its width.

    Args:
        layers: L layers.
        widths: W widths in bits.
        table: time by layer and width; need not fall with the width.
        limit: in the unit of the table.
        unit: of table and limit.
        name: for messages.

    Raises:
        ValueError: the table lacks a layer or a width.
    """
    _require_layers(layers, table, "latency")
    for layer in layers:
        if absent := [bits for bits in widths if bits not in table[layer.name]]:
            raise ValueError(
                f"the latency table lacks {layer.name!r} at {absent} bits: measure it there, or leave these "
                "widths out"
            )
    usage = np.array([[table[layer.name][bits] for bits in widths] for layer in layers], dtype=np.float64)
    return Constraint(name, usage, limit, unit)


def load_latency_table(path: str | os.PathLike) -> dict[str, dict[int, float]]:
    """Read a latency table, JSON `{layer: {"4": time}}`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a latency table.
    """
    content = read_json(path, "latency table")
    try:
        return {
            layer: {int(bits): float(time) for bits, time in times.items()}
            for layer, times in content.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f'latency table {path} is broken ({error}): expected {{"layer": {{"4": time}}}}'
        ) from None


def near_names(name: str, known: Iterable[str]) -> str:
    """The most similar known names, for a message."""
    known = list(known)
    return ", ".join(difflib.get_close_matches(name, known, n=3) or known[:3])


def amount(value: float) -> str:
    """A number for a message: whole ones in full, others as far as a limit tells them apart."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.10g}"


def _require_layers(layers: Sequence[LayerInfo], table: Mapping, what: str) -> None:
    absent = [layer.name for layer in layers if layer.name not in table]
    if absent:
        raise ValueError(
            f"no {what} for {len(absent)} of {len(layers)} layers, first {absent[0]!r} "
            f"(near are {near_names(absent[0], table) or 'none: it is empty'})"
        )
