"""The critical sets that a config names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from fisher_detr.critical import as_defined, resolve_category_set, resolve_category_sets
from fisher_detr.structures import CategorySet


def target_spec(cfg: CfgNode) -> str:
    """CRITICAL.TARGET with its members, where it is a name that CRITICAL.SETS defines."""
    return as_defined(cfg.CRITICAL.TARGET, cfg.CRITICAL.SETS)


def target_set(cfg: CfgNode, split: str = "TRAIN") -> CategorySet | None:
    """The set of CRITICAL.TARGET; None: it is empty.

    Args:
        cfg: the config.
        split: of DATASETS, whose first data set has the categories: "TRAIN" or "TEST".
    """
    if not cfg.CRITICAL.TARGET:
        return None
    return resolve_category_set(target_spec(cfg), MetadataCatalog.get(cfg.DATASETS[split][0]))


def planned_sets(cfg: CfgNode) -> list[CategorySet]:
    """The sets of ALLOCATION.CRITICAL_SETS, else that of CRITICAL.TARGET; empty: neither is named."""
    if not cfg.ALLOCATION.CRITICAL_SETS:
        return [chosen for chosen in [target_set(cfg)] if chosen]
    specs = [as_defined(spec, cfg.CRITICAL.SETS) for spec in cfg.ALLOCATION.CRITICAL_SETS]
    return resolve_category_sets(specs, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))


def require_objects(sets: Iterable[CategorySet], samples: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for a critical set of which no calibration image has an object.

    Its objective would be a loss of empty images, and plans by it of nothing that counts.
    """
    there = {int(index) for sample in samples for index in sample["instances"].gt_classes}
    if absent := [repr(chosen.name) for chosen in sets if there.isdisjoint(chosen.indices)]:
        raise ValueError(
            f"critical set {' and '.join(absent)} has no object in the {len(samples)} calibration images: "
            "raise QUANT.CALIBRATION.NUM_IMAGES, take another QUANT.CALIBRATION.SEED, or name another set"
        )
