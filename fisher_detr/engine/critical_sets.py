"""The critical sets that a config names."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from fisher_detr.critical import as_defined, resolve_category_set, resolve_category_sets
from fisher_detr.structures import CategorySet


def target_set(cfg: CfgNode, split: str = "TRAIN") -> CategorySet | None:
    """The set of CRITICAL.TARGET; None: it is empty.

    Args:
        cfg: the config.
        split: of DATASETS, whose first data set has the categories: "TRAIN" or "TEST".
    """
    if not cfg.CRITICAL.TARGET:
        return None
    spec = as_defined(cfg.CRITICAL.TARGET, cfg.CRITICAL.SETS)
    return resolve_category_set(spec, MetadataCatalog.get(cfg.DATASETS[split][0]))


def planned_sets(cfg: CfgNode) -> list[CategorySet]:
    """The sets of ALLOCATION.CRITICAL_SETS, else that of CRITICAL.TARGET; empty: neither is named."""
    if not cfg.ALLOCATION.CRITICAL_SETS:
        return [chosen for chosen in [target_set(cfg)] if chosen]
    specs = [as_defined(spec, cfg.CRITICAL.SETS) for spec in cfg.ALLOCATION.CRITICAL_SETS]
    return resolve_category_sets(specs, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))
