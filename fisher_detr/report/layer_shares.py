"""Which part of the predicted damage each layer has, by objective: read from what plans were made of."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from fisher_detr.report.arms import ReportArm
from fisher_detr.structures import SensitivityTable


@dataclasses.dataclass(frozen=True)
class LayerShares:
    """L layers along the network.

    Attributes:
        names: of the layers.
        bits: the width that the sensitivities are of.
        overall: part of the predicted damage to the overall objective that each layer has, `[L]`.
        critical: the same of the critical objectives, by critical set; empty: there is none.
        size: part of the weights, `[L]`.
    """

    names: tuple[str, ...]
    bits: int
    overall: np.ndarray
    critical: Mapping[str, np.ndarray]
    size: np.ndarray

    @property
    def objectives(self) -> dict[str, np.ndarray]:
        """Parts of the damage, `[L]`, by objective: the overall one first."""
        return {"overall": self.overall, **{f"critical: {name}": x for name, x in self.critical.items()}}


def layer_shares(tables: Sequence[SensitivityTable], average_bits: float) -> LayerShares:
    """Predicted damage of every layer at the candidate width next to an average.

    Args:
        tables: of one arm; of several critical sets one each.
        average_bits: of its plan.

    Raises:
        ValueError: the tables are of different layers or widths.
    """
    first = tables[0]
    if any((table.layers, table.widths) != (first.layers, first.widths) for table in tables):
        raise ValueError(
            "sensitivities of one plan are of different layers or widths: remove those of an earlier plan"
        )
    column = int(np.argmin(np.abs(np.array(first.widths) - average_bits)))
    numel = np.array([layer.numel for layer in first.layers], dtype=float)
    return LayerShares(
        tuple(layer.name for layer in first.layers),
        first.widths[column],
        _shares(first.terms["overall"][:, column]),
        {_set_of(table): _shares(table.terms["critical"][:, column]) for table in tables if _aims(table)},
        numel / numel.sum(),
    )


def _aims(table: SensitivityTable) -> bool:
    return "critical" in table.terms


def _set_of(table: SensitivityTable) -> str:
    return (table.meta.get("critical_set") or {}).get("name", "")


def _shares(values: np.ndarray) -> np.ndarray:
    """Parts of the sum; a measured rise below zero is none."""
    positive = values.clip(min=0.0)
    return positive / (positive.sum() or 1.0)


def find_shares(arms: Sequence[ReportArm]) -> LayerShares | None:
    """From the arm that knows most critical objectives, of those that have sensitivities the first."""
    found = [(arm, [x for x in arm.sensitivity.values() if "overall" in x.terms]) for arm in arms]
    known = [(arm, tables) for arm, tables in found if tables]
    if not known:
        return None
    arm, tables = max(known, key=lambda pair: sum(map(_aims, pair[1])))
    try:
        return layer_shares(tables, arm.of_coverage("average_bits") or 4.0)
    except ValueError as error:
        raise ValueError(f"{arm.name}: {error}") from None


def layer_names(arms: Sequence[ReportArm]) -> tuple[str, ...]:
    """Layers in the order of the network, as sensitivities and coverage have it; plans are sorted by name."""
    if shares := find_shares(arms):
        return shares.names
    planned = next(arm for arm in arms if arm.allocation)
    products = [product["name"] for product in (planned.coverage or {}).get("products", ())]
    place = {name: i for i, name in enumerate(products)}
    return tuple(sorted(planned.allocation.bits, key=lambda name: place.get(name, len(place))))
