"""What quantization and allocation know of a layer: its levels, its size."""

import dataclasses
from collections.abc import Sequence

from fisher_detr.structures.checks import MAX_BITS, MIN_BITS, is_count

SCALE_BYTES = 4  # a scale is stored as one float32


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        bits: width in bits, 2 to 8.
        symmetric: zero is the integer 0 and the range is `[-(2^(b-1) - 1), 2^(b-1) - 1]`; otherwise affine
            `[0, 2^b - 1]`.
        per_channel: one scale for each slice of dimension 0; otherwise one scale for the tensor.
    """

    bits: int
    symmetric: bool = True
    per_channel: bool = True

    def __post_init__(self):
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"width of {self.bits} bits: expected {MIN_BITS} to {MAX_BITS}")

    @property
    def qmin(self) -> int:
        """Smallest integer level."""
        return -(2 ** (self.bits - 1) - 1) if self.symmetric else 0

    @property
    def qmax(self) -> int:
        """Largest integer level."""
        return 2 ** (self.bits - 1) - 1 if self.symmetric else 2**self.bits - 1


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """A quantizable layer as the allocator sees it.

    Attributes:
        name: module path in the model.
        numel: number of weights.
        num_scales: number of scales (output channels, or 1).
    """

    name: str
    numel: int
    num_scales: int

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise ValueError(f"layer {self.name!r}: expected text as its name")
        for field in ("numel", "num_scales"):
            count = getattr(self, field)
            if not is_count(count) or count < 1:
                raise ValueError(f"layer {self.name!r} has {field} {count!r}: expected 1 or more")

    def size_bytes(self, bits: int) -> int:
        """Bytes of the packed weights and their float32 scales at a width."""
        return -(-self.numel * bits // 8) + SCALE_BYTES * self.num_scales


def check_layers(layers: Sequence[LayerInfo]) -> None:
    """Raise ValueError where there is no layer, or where two have one name."""
    if not layers:
        raise ValueError("no layers: at least one layer must be quantized (see QUANT.SKIP_LAYERS)")
    names = [layer.name for layer in layers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"layers named twice: {twice}: each layer must be listed once")
