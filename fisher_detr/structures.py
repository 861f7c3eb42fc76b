"""The data that flows between the rooms: small frozen dataclasses, without torch.

category names -> CategorySet; layer statistics -> SensitivityTable -> BitAllocation -> quantized model.
"""

import dataclasses
import enum
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fisher_detr.files import read_json, write_json

SCALE_BYTES = 4  # a scale is stored as one float32
MIN_BITS, MAX_BITS = 2, 8


class ScaleMethod(enum.StrEnum):
    """How the scale of a weight quantizer is chosen."""

    MAX = "max"
    MSE = "mse"
    FISHER = "fisher"


class SensitivityForm(enum.StrEnum):
    """Quadratic form of the predicted loss increase (method.md section 3)."""

    DIAGONAL = "diagonal"
    BLOCK = "block"


class Arm(enum.StrEnum):
    """How the bits are spent."""

    UNIFORM = "uniform"
    FISHER_OVERALL = "fisher_overall"
    FISHER_CRITICAL = "fisher_critical"


@dataclasses.dataclass(frozen=True)
class CategorySet:
    """A critical set C of categories.

    Attributes:
        name: used in metric names; letters, digits and `_`.
        indices: contiguous class indices in `[0, num_classes)`, ascending, without repetition.
        num_classes: number n of categories of the data set, without no-object.
    """

    name: str
    indices: tuple[int, ...]
    num_classes: int

    def __post_init__(self):
        if not self.name.replace("_", "a").isalnum():
            raise ValueError(f"category set name {self.name!r}: use letters, digits and '_' only")
        if not self.indices:
            raise ValueError(f"category set {self.name!r} is empty: name at least one category")
        if list(self.indices) != sorted(set(self.indices)):
            raise ValueError(f"category set {self.name!r}: indices {self.indices} must ascend without repetition")
        if self.indices[0] < 0 or self.indices[-1] >= self.num_classes:
            raise ValueError(f"category set {self.name!r}: indices {self.indices} outside [0, {self.num_classes})")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def others(self) -> tuple[int, ...]:
        """Class indices that are not critical; empty when C holds every category."""
        return tuple(i for i in range(self.num_classes) if i not in self.indices)


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        bits: width in bits, 2 to 8.
        symmetric: zero is the integer 0 and the range is `[-(2^(b-1) - 1), 2^(b-1) - 1]`; otherwise affine `[0, 2^b - 1]`.
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

    def size_bytes(self, bits: int) -> int:
        """Bytes of the packed weights and their float32 scales at a width."""
        return -(-self.numel * bits // 8) + SCALE_BYTES * self.num_scales


@dataclasses.dataclass(frozen=True)
class SensitivityTable:
    """Predicted increase of the objective for every layer and width.

    Attributes:
        layers: L layers.
        widths: W candidate widths in bits, ascending.
        terms: statistics by name, each `[L, W]` float64: the quadratic forms of `E[g_A g_A']` ("overall"),
            `E[g_A g_F']` ("cross") and `E[g_F g_F']` ("critical") on the quantization error, in units of the loss squared.
        traces: trace of each layer's Fisher information by objective ("overall", "cross", "critical"), each `[L]`.
        form: diagonal or block.
        meta: where it came from: config, image ids, seed, critical set, scale method.
    """

    layers: tuple[LayerInfo, ...]
    widths: tuple[int, ...]
    terms: Mapping[str, np.ndarray]
    traces: Mapping[str, np.ndarray]
    form: SensitivityForm
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        shape = (len(self.layers), len(self.widths))
        for name, values in self.terms.items():
            if values.shape != shape:
                raise ValueError(f"sensitivity term {name!r} has shape {values.shape}, expected {shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"sensitivity term {name!r} is not finite: the calibration loss overflowed")

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, atomically."""
        content = dataclasses.asdict(self)
        content["terms"] = {name: values.tolist() for name, values in self.terms.items()}
        content["traces"] = {name: values.tolist() for name, values in self.traces.items()}
        write_json(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SensitivityTable":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not a sensitivity table.
        """
        content = _require_keys(read_json(path, "sensitivity file"), cls, path)
        return cls(
            layers=tuple(LayerInfo(**layer) for layer in content["layers"]),
            widths=tuple(content["widths"]),
            terms={name: np.array(values, dtype=np.float64) for name, values in content["terms"].items()},
            traces={name: np.array(values, dtype=np.float64) for name, values in content["traces"].items()},
            form=SensitivityForm(content["form"]),
            meta=content["meta"],
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

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, atomically."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "BitAllocation":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not a bit allocation.
        """
        return cls(**_require_keys(read_json(path, "allocation file"), cls, path))


def _require_keys(content: Any, cls: type, path: str | os.PathLike) -> dict[str, Any]:
    expected = {field.name for field in dataclasses.fields(cls)}
    found = set(content) if isinstance(content, dict) else {type(content).__name__}
    if found != expected:
        raise ValueError(f"{path} is no {cls.__name__}: it has {sorted(found)}, expected {sorted(expected)}")
    return content
