"""Settings that exist and have the right type, and still cannot be: all of them in one error."""

import difflib
import enum
from collections.abc import Callable, Iterator

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.critical import resolve_category_set, resolve_category_sets
from fisher_detr.modeling import BoxLoss
from fisher_detr.quantization import RangeMethod
from fisher_detr.structures import (
    MAX_BITS,
    MIN_BITS,
    Arm,
    Combination,
    ScaleMethod,
    SensitivityForm,
    check_widths,
)

_CHOICES: dict[str, type[enum.StrEnum]] = {
    "CRITICAL.BOX_LOSS": BoxLoss,
    "QUANT.WEIGHT.SCALE": ScaleMethod,
    "QUANT.ACTIVATION.RANGE": RangeMethod,
    "ALLOCATION.ARM": Arm,
    "ALLOCATION.SENSITIVITY": SensitivityForm,
    "ALLOCATION.COMBINE": Combination,
}


def check_config(cfg: CfgNode) -> None:
    """Check the settings that need no model.

    Args:
        cfg: its data sets are registered.

    Raises:
        ValueError: names every mistake.
    """
    mistakes = [*_choices(cfg), *_widths(cfg), *_clipping(cfg), *_data_sets(cfg), *_critical_sets(cfg)]
    if mistakes:
        raise ValueError("config: " + "; ".join(mistakes))


def _choices(cfg: CfgNode) -> Iterator[str]:
    for key, kind in _CHOICES.items():
        value = _get(cfg, key)
        if value not in list(kind):
            yield f"{key} is {value!r}, expected one of {', '.join(kind)}"


def _widths(cfg: CfgNode) -> Iterator[str]:
    bits = cfg.QUANT.ACTIVATION.BITS
    if bits and not MIN_BITS <= bits <= MAX_BITS:
        yield f"QUANT.ACTIVATION.BITS is {bits}, expected {MIN_BITS} to {MAX_BITS}, or 0 for none"
    try:
        check_widths(cfg.ALLOCATION.WIDTHS)
    except ValueError as error:
        yield f"ALLOCATION.WIDTHS: {error}"
    average = cfg.ALLOCATION.AVERAGE_BITS
    if not MIN_BITS <= average <= MAX_BITS:
        yield f"ALLOCATION.AVERAGE_BITS is {average:g}, expected {MIN_BITS} to {MAX_BITS}"


def _clipping(cfg: CfgNode) -> Iterator[str]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and (clip.CLIP_TYPE, clip.NORM_TYPE) != ("full_model", 2.0):
        yield (
            f"SOLVER.CLIP_GRADIENTS clips by {clip.CLIP_TYPE!r} with NORM_TYPE {clip.NORM_TYPE:g}, expected "
            "CLIP_TYPE 'full_model' (the gradient of all parameters at once) with NORM_TYPE 2"
        )


def _data_sets(cfg: CfgNode) -> Iterator[str]:
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in DatasetCatalog:
                near = difflib.get_close_matches(name, list(DatasetCatalog), n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else "add it to DATASETS.REGISTER"
                yield f"DATASETS.{key} names the unknown data set {name!r}, {hint}"
                continue
            known = len(MetadataCatalog.get(name).get("thing_classes") or ())
            if known and cfg.MODEL.DETR.NUM_CLASSES not in (0, known):
                yield (
                    f"MODEL.DETR.NUM_CLASSES is {cfg.MODEL.DETR.NUM_CLASSES}, and data set {name!r} has "
                    f"{known} categories: set it to {known}, or to 0 to take it from the data set"
                )


def _critical_sets(cfg: CfgNode) -> Iterator[str]:
    """The sets are resolved on the split that uses them, where its super-categories are known by now."""
    uses: list[tuple[str, str, Callable]] = [
        (name, "CRITICAL.SETS", lambda m: resolve_category_sets(cfg.CRITICAL.SETS, m))
        for name in cfg.DATASETS.TEST
    ]
    if cfg.CRITICAL.TARGET:
        uses += [
            (name, "CRITICAL.TARGET", lambda m: resolve_category_set(cfg.CRITICAL.TARGET, m))
            for name in cfg.DATASETS.TRAIN
        ]
    for name, key, resolve in uses:
        metadata = MetadataCatalog.get(name)
        if metadata.get("thing_supercategories") is None:
            continue
        try:
            resolve(metadata)
        except ValueError as error:
            yield f"{key}, data set {name!r}: {error}"


def _get(cfg: CfgNode, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
