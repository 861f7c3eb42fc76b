"""Where sensitivities come from, and whether those of an earlier run answer the question of this one."""

import os
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from fisher_detr.checkpoint import local_path
from fisher_detr.files import sha256_of
from fisher_detr.quantization import RoundingMethod
from fisher_detr.structures import Arm, SensitivityTable


def provenance_of(cfg: CfgNode) -> dict[str, Any]:
    """Weights, data and seed of a config, to be stored with the sensitivities."""
    path = cfg.MODEL.WEIGHTS
    return {
        "weights": os.path.basename(path),
        "weights_sha256": sha256_of(local_path(path)) if path else None,
        "datasets": list(cfg.DATASETS.TRAIN),
        "seed": cfg.QUANT.CALIBRATION.SEED,
        "box_loss": cfg.CRITICAL.BOX_LOSS,
    }


def save_tables(tables: Mapping[str, SensitivityTable], folder: str) -> None:
    """Write `sensitivity.json`; of several critical sets `sensitivity_<set>.json` each."""
    for name, table in tables.items():
        suffix = f"_{name}" if len(tables) > 1 else ""
        table.save(os.path.join(folder, f"sensitivity{suffix}.json"))


def check_origin(table: SensitivityTable, expected: Mapping[str, Any]) -> None:
    """A table of other images is welcome; one of another model or question is a mistake.

    Args:
        table: of an earlier run.
        expected: the `meta` that a table of this run has.

    Raises:
        ValueError: names what differs.
    """
    try:
        found = _decisive(table.meta)
    except (AttributeError, TypeError):
        raise ValueError("the sensitivity table does not tell where it is from: compute it again") from None
    wanted = _decisive(expected)
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
