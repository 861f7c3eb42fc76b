"""The data that flows between the rooms: small frozen dataclasses, without torch.

category names -> CategorySet; layer statistics -> SensitivityTable -> BitAllocation -> quantized model.
"""

import dataclasses
import enum
import numbers
import os
import sys
from collections.abc import Mapping, Sequence
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
    """How the loss increase of a layer is predicted (method.md section 3)."""

    DIAGONAL = "diagonal"  # quadratic form of the Fisher diagonal
    BLOCK = "block"  # quadratic form of the Fisher information within the layer
    MEASURED = "measured"  # the increase itself, one layer quantized at a time
    HAWQ_TRACE = "hawq_trace"  # mean Hessian trace times the squared error


class Combination(enum.StrEnum):
    """How the overall and the critical Fisher information become one (method.md section 3)."""

    SQUARE_OF_SUM = "square_of_sum"
    SUM_OF_NORMALIZED = "sum_of_normalized"


class ClassLoss(enum.StrEnum):
    """The loss of the class head, which decides the head's form."""

    CROSS_ENTROPY = "cross_entropy"  # softmax over the categories and no-object
    FOCAL = "focal"  # a sigmoid for each category


class Arm(enum.StrEnum):
    """How the bits are spent."""

    UNIFORM = "uniform"
    FISHER_OVERALL = "fisher_overall"
    FISHER_CRITICAL = "fisher_critical"
    HAWQ = "hawq"  # by the mean of the Hessian's diagonal (HAWQ-V2), with the scales of FISHER_OVERALL
    REWEIGHTED = "reweighted"  # FISHER_OVERALL of a loss in which critical objects count more


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
            raise ValueError(
                f"category set {self.name!r}: indices {self.indices} must ascend without repetition"
            )
        if self.indices[0] < 0 or self.indices[-1] >= self.num_classes:
            raise ValueError(
                f"category set {self.name!r}: indices {self.indices} outside [0, {self.num_classes})"
            )

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
class Objective:
    """What a plan minimises: the Fisher information of both objectives as one (method.md section 3).

    `square_of_sum` takes `E[(a_A g_A + a_F g_F)^2]`, `sum_of_normalized` takes
    `a_A I_A / tr I_A + a_F I_F / tr I_F`.

    Attributes:
        overall_weight: a_A, not negative.
        critical_weight: a_F, not negative; 0 leaves the critical objective out.
        combine: which of the two forms.
    """

    overall_weight: float = 1.0
    critical_weight: float = 1.0
    combine: Combination = Combination.SUM_OF_NORMALIZED

    def __post_init__(self):
        for name in ("overall_weight", "critical_weight"):
            weight = getattr(self, name)
            if not 0.0 <= weight < float("inf"):
                raise ValueError(f"{name} {weight}: expected a finite number that is not negative")
        if self.overall_weight == self.critical_weight == 0.0:
            raise ValueError("overall_weight and critical_weight are both 0: one of them must count")

    def factors(self, traces: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Factor of every term: both forms are linear in the stored terms.

        Args:
            traces: trace of each layer's Fisher information by term, each `[L]`.

        Returns:
            Factor by term name; terms that do not count are left out.

        Raises:
            ValueError: a term is needed that was not estimated, or whose Fisher information is zero.
        """
        a, f = self.overall_weight, self.critical_weight
        if self.combine == Combination.SQUARE_OF_SUM:
            factors = {"overall": a * a, "cross": 2.0 * a * f, "critical": f * f}
        else:
            factors = {"overall": a, "critical": f}
        factors = {term: factor for term, factor in factors.items() if factor}
        if absent := sorted(set(factors) - set(traces)):
            raise ValueError(
                f"{self.combine} needs the terms {absent}, the estimate has {sorted(traces)}: "
                "estimate it with that objective (CRITICAL.TARGET) or set its weight to 0"
            )
        if self.combine == Combination.SQUARE_OF_SUM:
            return factors
        return {term: factor / _total_trace(term, traces[term]) for term, factor in factors.items()}


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
            if not _is_count(count) or count < 1:
                raise ValueError(f"layer {self.name!r} has {field} {count!r}: expected 1 or more")

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
            `E[g_A g_F']` ("cross") and `E[g_F g_F']` ("critical") on the quantization error, in units of the
            loss squared. The measured form and the Hessian's have no "cross" and are in units of the loss.
        traces: trace of each layer's Fisher information by the same names, each `[L]`; of the other forms
            what takes its place.
        form: where the terms come from.
        standard_errors: of the terms over images, `[L, W]` each; empty where they were not estimated.
        linear: `E[g]'d` by objective, `[L, W]` each, for study; empty where it was not estimated.
        meta: where it came from: config, image ids, seed, critical set, scale method.
    """

    layers: tuple[LayerInfo, ...]
    widths: tuple[int, ...]
    terms: Mapping[str, np.ndarray]
    traces: Mapping[str, np.ndarray]
    form: SensitivityForm
    standard_errors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    linear: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_layers(self.layers)
        check_widths(self.widths)
        _check_meta(self.meta)
        if not self.terms or set(self.terms) != set(self.traces):
            raise ValueError(
                f"terms {sorted(self.terms)}, traces {sorted(self.traces)}: expected the same names"
            )
        num_layers, num_widths = len(self.layers), len(self.widths)
        for field in ("terms", "standard_errors", "linear", "traces"):
            shape = (num_layers,) if field == "traces" else (num_layers, num_widths)
            for name, values in getattr(self, field).items():
                _check_array(f"sensitivity {field} {name!r}", values, shape)

    def at_widths(self, widths: Sequence[int]) -> "SensitivityTable":
        """The same table with only some of its candidate widths.

        Raises:
            ValueError: it lacks one of them.
        """
        widths = tuple(widths)
        if absent := [bits for bits in widths if bits not in self.widths]:
            raise ValueError(
                f"the sensitivity table has the widths {list(self.widths)} and lacks {absent}: leave them "
                "out of ALLOCATION.WIDTHS, or compute it again"
            )
        columns = [self.widths.index(bits) for bits in widths]
        chosen = {
            field: {name: values[:, columns] for name, values in getattr(self, field).items()}
            for field in ("terms", "standard_errors", "linear")
        }
        return dataclasses.replace(self, widths=widths, **chosen)

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON, atomically."""
        content = dataclasses.asdict(self)
        for field in _ARRAYS:
            content[field] = {name: values.tolist() for name, values in getattr(self, field).items()}
        write_json(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SensitivityTable":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a sensitivity table.
        """
        content = _require_keys(read_json(path, "sensitivity file"), cls, path)
        try:
            content["layers"] = tuple(LayerInfo(**layer) for layer in content["layers"])
            content["widths"] = tuple(content["widths"])
            content["form"] = SensitivityForm(content["form"])
            for field in _ARRAYS:
                content[field] = {name: np.array(v, dtype=np.float64) for name, v in content[field].items()}
            return cls(**content)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"sensitivity file {path} is broken ({error}): compute it again") from None


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
            if not _is_width(bits):
                raise ValueError(f"layer {name!r} has width {bits!r}: expected {MIN_BITS} to {MAX_BITS} bits")
        if not (_is_count(self.size_bytes) and _is_count(self.budget_bytes)):
            raise ValueError(
                f"a plan of {self.size_bytes!r} bytes, its budget of {self.budget_bytes!r}: expected whole "
                "numbers"
            )
        if not (self.cost is None or _is_cost(self.cost)):
            raise ValueError(f"a plan that costs {self.cost!r}: expected a finite number, or none")
        _check_meta(self.meta)
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
        content = _require_keys(read_json(path, "allocation file"), cls, path)
        try:
            return cls(**content)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"allocation file {path} is broken ({error}): compute it again") from None


def check_layers(layers: Sequence[LayerInfo]) -> None:
    """Raise ValueError where there is no layer, or where two have one name."""
    if not layers:
        raise ValueError("no layers: at least one layer must be quantized (see QUANT.SKIP_LAYERS)")
    names = [layer.name for layer in layers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"layers named twice: {twice}: each layer must be listed once")


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError unless the candidate widths ascend within what the quantizer can do."""
    if not widths or not all(map(_is_width, widths)) or list(widths) != sorted(set(widths)):
        raise ValueError(f"widths {list(widths)}: expected ascending whole numbers, {MIN_BITS} to {MAX_BITS}")


_ARRAYS = ("terms", "traces", "standard_errors", "linear")


def _is_width(bits: Any) -> bool:
    return isinstance(bits, int) and not isinstance(bits, bool) and MIN_BITS <= bits <= MAX_BITS


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_cost(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _check_meta(meta: Any) -> None:
    if not isinstance(meta, Mapping):
        raise ValueError(f"its meta are {meta!r}: expected values by name")


def _check_array(what: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"{what} has shape {values.shape}, expected {shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} is not finite: the calibration loss overflowed")


def _total_trace(term: str, traces: np.ndarray) -> float:
    total = float(np.sum(traces))
    if not total > 0.0:
        raise ValueError(
            f"the Fisher trace of {term!r} is {total:g}: its loss does not depend on these weights on any "
            "calibration image; calibrate on other images or set its weight to 0"
        )
    return total


def _require_keys(content: Any, cls: type, path: str | os.PathLike) -> dict[str, Any]:
    expected = {field.name for field in dataclasses.fields(cls)}
    found = set(content) if isinstance(content, dict) else {type(content).__name__}
    if found != expected:
        raise ValueError(f"{path} is no {cls.__name__}: it has {sorted(found)}, expected {sorted(expected)}")
    return content
