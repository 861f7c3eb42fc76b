"""The arms that are compared at equal bytes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fisher_detr.allocation.constraints import Constraint
from fisher_detr.allocation.cost import ONLY_SET, Aggregate, Costs, combine
from fisher_detr.allocation.plans import allocate
from fisher_detr.allocation.restrictions import Restrictions
from fisher_detr.structures import (
    MAX_BITS,
    MIN_BITS,
    Arm,
    BitAllocation,
    LayerInfo,
    Objective,
    SensitivityTable,
    check_layers,
)


def budget_bytes(layers: Sequence[LayerInfo], average_bits: float) -> int:
    """Budget: the bytes of all layers at one width, scales included.

    Args:
        layers: the layers.
        average_bits: width in bits, 2 to 8; the bytes of 3.5 lie half-way between those of 3 and 4.
    """
    check_layers(layers)
    if not MIN_BITS <= average_bits <= MAX_BITS:
        raise ValueError(f"average of {average_bits} bits: expected {MIN_BITS} to {MAX_BITS}")
    below = int(average_bits)
    size, wider = (sum(layer.size_bytes(bits) for layer in layers) for bits in (below, below + 1))
    return size + int((average_bits - below) * (wider - size))


def uniform(layers: Sequence[LayerInfo], bits: int, meta: Mapping[str, Any] | None = None) -> BitAllocation:
    """One width for all layers; its budget is its size.

    Raises:
        ValueError: the width is not a whole number from 2 to 8.
    """
    size = budget_bytes(layers, bits)
    if bits != int(bits):
        raise ValueError(f"uniform has whole widths, not {bits} bits: take {int(bits)} or {int(bits) + 1}")
    return BitAllocation({layer.name: int(bits) for layer in layers}, size, size, meta=dict(meta or {}))


def allocate_arm(
    arm: Arm,
    layers: Sequence[LayerInfo],
    average_bits: float,
    table: SensitivityTable | Mapping[str, SensitivityTable] | None = None,
    objective: Objective | None = None,
    gap: float = 1e-4,
    time_limit: float = 60.0,
    *,
    set_weights: Mapping[str, float] | None = None,
    aggregate: Aggregate = Aggregate.WEIGHTED_SUM,
    constraints: Sequence[Constraint] = (),
    restrictions: Restrictions | None = None,
) -> BitAllocation:
    """The plan of one arm at the bytes of a uniform width.

    Args:
        arm: UNIFORM; FISHER_CRITICAL; or one that leaves the critical objective out (a_F = 0).
        layers: all layers that are quantized.
        average_bits: width in bits whose uniform size is the budget; a whole number for UNIFORM.
        table: sensitivities of the same layers, or those of several critical sets by their names; not needed
            for UNIFORM.
        objective: weights of the objectives and how they are combined.
        gap: relative optimality gap.
        time_limit: seconds.
        set_weights: factor of each critical set; sets that are not named have 1.
        aggregate: how the costs of several critical sets become one.
        constraints: limits beside the bytes; UNIFORM has none.
        restrictions: ties, fixed layers, smallest and largest width; UNIFORM has none.

    Returns:
        The plan; `meta` says arm, average width, objective, where the sensitivities came from (of several
        sets: by their names), and what `allocate` adds.

    Raises:
        ValueError: the table is missing or of other layers, or what `allocate` and `combine` raise.
    """
    meta: dict[str, Any] = {"arm": str(arm), "average_bits": average_bits}
    if arm == Arm.UNIFORM:
        return uniform(layers, average_bits, meta)
    objective = objective or Objective()
    if arm != Arm.FISHER_CRITICAL:
        objective = Objective(objective.overall_weight or 1.0, 0.0, objective.combine)
    tables = dict(table) if isinstance(table, Mapping) else {ONLY_SET: table}
    _check_tables(tables, layers, arm)
    first, *_ = tables.values()
    origins = {name: dict(of_set.meta) for name, of_set in tables.items()}
    meta |= {
        "objective": dataclasses.asdict(objective),
        "form": str(first.form),
        "sensitivity": origins if isinstance(table, Mapping) else origins[ONLY_SET],
    }
    costs = {name: combine(of_set, objective) for name, of_set in tables.items()}
    return allocate(
        Costs.of(costs, set_weights, aggregate),
        layers,
        first.widths,
        budget_bytes(layers, average_bits),
        gap,
        time_limit,
        meta,
        constraints=constraints,
        restrictions=restrictions,
    )


def _check_tables(
    tables: Mapping[str, SensitivityTable | None], layers: Sequence[LayerInfo], arm: Arm
) -> None:
    if not tables or None in tables.values():
        raise ValueError(
            f"arm {arm} needs a sensitivity table: compute one or give ALLOCATION.SENSITIVITY_FILE"
        )
    for table in tables.values():
        if tuple(table.layers) != tuple(layers):
            other = sorted({layer.name for layer in set(table.layers) ^ set(layers)})
            raise ValueError(
                f"the sensitivity table has {len(table.layers)} layers, the model {len(layers)}; they differ "
                f"in {other[:5] or 'their order'}: compute it again for this model and these settings"
            )
    kinds = {(table.widths, str(table.form)) for table in tables.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"the sensitivity tables of the sets have several widths or forms ({sorted(kinds)}): make them "
            "with one"
        )
