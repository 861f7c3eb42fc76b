"""What the allocation makes."""

import dataclasses
import numbers
import os
import sys
from collections.abc import Mapping
from typing import Any

from fisher_detr.files import read_json, write_json
from fisher_detr.structures.checks import (
    MAX_BITS,
    MIN_BITS,
    check_meta,
    is_count,
    is_width,
    refused,
    require_keys,
)


@dataclasses.dataclass(frozen=True)
class BitAllocation:
    """A width for every quantized layer.

    Attributes:
        bits: width in bits by layer name.
        size_bytes: bytes of packed weights and scales over these layers.
        budget_bytes: the budget it was solved for.
        cost: predicted increase of the objective (its unit is the sensitivity's), or None for uniform.
        meta: arm, solver gap, and where the sensitivity came from.
    """

    bits: Mapping[str, int]
    size_bytes: int
    budget_bytes: int
    cost: float | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.bits, Mapping) or not self.bits:
            raise ValueError("an allocation of no layers: at least one layer must have a width")
        for name, bits in self.bits.items():
            if not is_width(bits):
                raise ValueError(f"layer {name!r} has width {bits!r}: expected {MIN_BITS} to {MAX_BITS} bits")
        if not (is_count(self.size_bytes) and is_count(self.budget_bytes)):
            raise ValueError(
                f"a plan of {self.size_bytes!r} bytes, its budget of {self.budget_bytes!r}: expected whole "
                "numbers"
            )
        if not (self.cost is None or _is_cost(self.cost)):
            raise ValueError(f"a plan that costs {self.cost!r}: expected a finite number, or none")
        check_meta(self.meta)
        if self.size_bytes > self.budget_bytes:
            raise ValueError(f"a plan of {self.size_bytes} bytes exceeds its budget of {self.budget_bytes}")

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, atomically."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "BitAllocation":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a bit allocation.
        """
        content = require_keys(read_json(path, "allocation file"), cls, path)
        with refused("allocation file", path):
            return cls(**content)


def _is_cost(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max
