"""A problem in terms of layers, and the program in terms of arrays that it shrinks to."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fisher_detr.allocation.constraints import Constraint
from fisher_detr.allocation.cost import Costs
from fisher_detr.allocation.restrictions import Restrictions
from fisher_detr.structures import LayerInfo, check_layers, check_widths


@dataclasses.dataclass(frozen=True)
class Program:
    """Minimise the largest of S sums, subject to K sums that are limited; one column for each row.

    Attributes:
        costs: `[S, G, W]` of G rows and W columns, finite and not negative.
        usages: `[K, G, W]`, finite and not negative.
        limits: `[K]`.
        allowed: which column a row may have, `[G, W]`; each row at least one.
    """

    costs: np.ndarray
    usages: np.ndarray
    limits: np.ndarray
    allowed: np.ndarray

    def objective(self, columns: np.ndarray) -> float:
        """The largest of the S sums of a choice `[G]`."""
        return float(chosen(self.costs, columns).sum(axis=-1).max())

    def used(self, columns: np.ndarray) -> np.ndarray:
        """The K sums of a choice `[G]`."""
        return chosen(self.usages, columns).sum(axis=-1)

    def holds(self, columns: np.ndarray) -> bool:
        """Whether a choice `[G]` is within all limits."""
        return bool((self.used(columns) <= self.limits).all())

    def least(self, values: np.ndarray) -> np.ndarray:
        """Least entry of each row among those allowed: `[..., G, W]` -> `[..., G]`."""
        return np.where(self.allowed, values, np.inf).min(axis=-1)

    def uniform_choices(self) -> list[np.ndarray]:
        """Choices `[G]` with one column for all rows that have several; widest first."""
        several = self.allowed.sum(axis=1) > 1
        common = np.flatnonzero(self.allowed[several].all(axis=0)) if several.any() else [0]
        only = self.allowed.argmax(axis=1)
        return [np.where(several, column, only) for column in common[::-1]]


def chosen(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The chosen entries: `[..., G, W]` and `[G]` -> `[..., G]`."""
    return values[..., np.arange(len(columns)), columns]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Layers, candidate widths, what they cost, and what a plan must keep to.

    Attributes:
        layers: L layers.
        widths: W candidate widths in bits, ascending.
        costs: `[S, L, W]`.
        constraints: K constraints, of different names.
        restrictions: on single layers.
    """

    layers: tuple[LayerInfo, ...]
    widths: tuple[int, ...]
    costs: Costs
    constraints: tuple[Constraint, ...] = ()
    restrictions: Restrictions = Restrictions()

    def __post_init__(self):
        check_layers(self.layers)
        check_widths(self.widths)
        shape = (len(self.layers), len(self.widths))
        expected = f"expected {shape[0]} layers x {shape[1]} widths"
        if self.costs.values.shape[1:] != shape:
            raise ValueError(f"cost has shape {self.costs.values.shape[1:]}, {expected}")
        for constraint in self.constraints:
            if constraint.usage.shape != shape:
                raise ValueError(f"{constraint.name} has usage of shape {constraint.usage.shape}, {expected}")
        names = [constraint.name for constraint in self.constraints]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"constraints named twice: {twice}: give each a name of its own")
        self.restrictions.check(self.names, self.widths)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(layer.name for layer in self.layers)

    @functools.cached_property
    def groups(self) -> list[list[int]]:
        """Indices of the layers of each row of the program."""
        return self.restrictions.groups(self.names)

    @functools.cached_property
    def program(self) -> Program:
        """Tied layers become one row; widths that are excluded are masked."""
        usages = [constraint.usage.astype(np.float64) for constraint in self.constraints]
        return Program(
            costs=self._rows(self.costs.objectives),
            usages=self._rows(np.array(usages).reshape(-1, len(self.layers), len(self.widths))),
            limits=np.array([constraint.largest_sum for constraint in self.constraints]),
            allowed=self.restrictions.allowed(self.names, self.widths),
        )

    def layer_columns(self, columns: np.ndarray) -> np.ndarray:
        """Columns of the rows `[G]` -> columns of the layers `[L]`."""
        found = np.empty(len(self.layers), dtype=int)
        for group, column in zip(self.groups, columns, strict=True):
            found[group] = column
        return found

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """Sum over the layers of a row: `[..., L, W]` -> `[..., G, W]`."""
        return np.stack([values[..., group, :].sum(axis=-2) for group in self.groups], axis=-2)


def problem_of(
    costs: Costs,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    constraints: Sequence[Constraint],
    restrictions: Restrictions | None,
) -> Problem:
    """A problem from any sequences."""
    return Problem(tuple(layers), tuple(widths), costs, tuple(constraints), restrictions or Restrictions())
