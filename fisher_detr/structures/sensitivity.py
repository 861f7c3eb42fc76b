"""What the allocation is made from."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fisher_detr.files import read_json, write_json
from fisher_detr.structures.checks import check_meta, check_widths, refused, require_keys
from fisher_detr.structures.layer import LayerInfo, check_layers
from fisher_detr.structures.options import SensitivityForm

_ARRAYS = ("terms", "traces", "standard_errors", "linear")


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
        check_meta(self.meta)
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
        content = require_keys(read_json(path, "sensitivity file"), cls, path)
        with refused("sensitivity file", path):
            content["layers"] = tuple(LayerInfo(**layer) for layer in content["layers"])
            content["widths"] = tuple(content["widths"])
            content["form"] = SensitivityForm(content["form"])
            for field in _ARRAYS:
                content[field] = {name: np.array(v, dtype=np.float64) for name, v in content[field].items()}
            return cls(**content)


def _check_array(what: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"{what} has shape {values.shape}, expected {shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} is not finite: the calibration loss overflowed")
