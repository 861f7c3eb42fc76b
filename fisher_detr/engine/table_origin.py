"""Whether sensitivities of an earlier run answer the question of this one."""

from collections.abc import Mapping
from typing import Any

from fisher_detr.quantization import RoundingMethod
from fisher_detr.structures import Arm, SensitivityTable


def check_origin(table: SensitivityTable, expected: Mapping[str, Any]) -> None:
    """A table of other images is welcome; one of another model or question is a mistake.

    Args:
        table: of an earlier run.
        expected: the `meta` that a table of this run has.

    Raises:
        ValueError: names what differs.
    """
    wanted, found = _decisive(expected), _decisive(table.meta)
    differing = [
        f"{key} is {found.get(key)!r}, here {wanted.get(key)!r}"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        raise ValueError(
            f"the sensitivity table was made for something else ({'; '.join(differing)}): "
            "leave out ALLOCATION.SENSITIVITY_FILE to compute it"
        )


def _decisive(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What two tables must agree in to be interchangeable."""
    settings = meta.get("settings") or {}
    keys = ("scale", "form", "rounding", "per_channel", "fold_norm", "aux_loss")
    where = {
        "damping": settings.get("rounding") != RoundingMethod.NEAREST,
        "reweight": meta.get("arm") == Arm.REWEIGHTED,
    }
    critical = meta.get("critical_set") or {}
    return {
        "objective": meta.get("objective"),
        "critical set": critical.get("indices"),
        "box_loss": meta.get("box_loss"),
        "sha256 of the weights": meta.get("weights_sha256"),
        "arm": meta.get("arm"),
        "labels": meta.get("labels"),
        **{key: settings.get(key) for key, matters in where.items() if matters},
        **{key: settings.get(key) for key in keys},
    }
