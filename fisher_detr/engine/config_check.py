"""Settings that exist and have the right type, and still cannot be: all of them in one error."""

import difflib
import enum
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.allocation import Aggregate
from fisher_detr.critical import as_defined, resolve_category_set, resolve_category_sets
from fisher_detr.data import CropType
from fisher_detr.engine.loaders import TrainSampler
from fisher_detr.engine.qat_check import (
    missing_objects,
    needs_critical_set,
    quantized_training,
    without_quantization,
)
from fisher_detr.engine.qat_settings import PenaltyObjective
from fisher_detr.engine.trainer_check import trainer_mistakes
from fisher_detr.fisher import GradientMethod, PenaltyMethod, TraceEstimate
from fisher_detr.modeling import BoxLoss, LabelSource
from fisher_detr.quantization import BiasMode, RangeMethod, RoundingMethod, ScaleTraining
from fisher_detr.structures import (
    MAX_BITS,
    MIN_BITS,
    Arm,
    ClassLoss,
    Combination,
    Objective,
    ScaleMethod,
    SensitivityForm,
    check_widths,
)

logger = logging.getLogger(__name__)

_CHOICES: dict[str, type[enum.StrEnum]] = {
    "DATALOADER.SAMPLER_TRAIN": TrainSampler,
    "INPUT.DETR_AUG.CROP_TYPE": CropType,
    "MODEL.DETR.CLASS_LOSS": ClassLoss,
    "CRITICAL.BOX_LOSS": BoxLoss,
    "QUANT.WEIGHT.SCALE": ScaleMethod,
    "QUANT.WEIGHT.ROUNDING": RoundingMethod,
    "QUANT.ACTIVATION.RANGE": RangeMethod,
    "ALLOCATION.ARM": Arm,
    "ALLOCATION.SENSITIVITY": SensitivityForm,
    "ALLOCATION.COMBINE": Combination,
    "ALLOCATION.AGGREGATE": Aggregate,
    "FISHER.METHOD": GradientMethod,
    "FISHER.LABELS": LabelSource,
    "QUANT.QAT.WEIGHT_SCALE": ScaleTraining,
    "QUANT.QAT.ACTIVATION_SCALE": ScaleTraining,
    "QUANT.QAT.PENALTY.METHOD": PenaltyMethod,
    "QUANT.QAT.PENALTY.ESTIMATE": TraceEstimate,
    "QUANT.QAT.PENALTY.OBJECTIVE": PenaltyObjective,
}
# Keys of Detectron2 that nothing here reads, and what to set instead.
_IGNORED = {
    "SOLVER.NESTEROV": "SOLVER.MOMENTUM is plain momentum",
    "SOLVER.BIAS_LR_FACTOR": "SOLVER.BACKBONE_MULTIPLIER and SAMPLING_MULTIPLIER are the only factors",
    "INPUT.CROP": "INPUT.DETR_AUG says how to crop",
    "TEST.AUG": "images are evaluated once",
    "TEST.DETECTIONS_PER_IMAGE": "MODEL.DETR.TOP_K is the number of detections",
}


def check_config(cfg: CfgNode, splits: Sequence[str] = ("TRAIN", "TEST")) -> None:
    """Check the settings that need no model; warn of those that do nothing, or nothing good.

    Args:
        cfg: its data sets are registered.
        splits: ("TEST",) where only a finished model is evaluated: what makes one is not checked then.

    Raises:
        ValueError: names every mistake.
    """
    mistakes = [*_choices(cfg), *_crop(cfg), *_widths(cfg), *_clipping(cfg)]
    mistakes += [*_data_sets(cfg), *_class_lists(cfg)]
    mistakes += _critical_sets(cfg, "CRITICAL.SETS", "TEST")
    quantizes = "TRAIN" in splits and (cfg.QUANT.ENABLED or cfg.QUANT.QAT.ENABLED)
    trains = "TRAIN" in splits and (cfg.QUANT.QAT.ENABLED or not cfg.QUANT.ENABLED)
    mistakes += _dilation(cfg)
    if quantizes:
        mistakes += [*_quantization(cfg), *_allocation(cfg)]
    if trains:
        mistakes += [*_mixed_precision(cfg), *trainer_mistakes(cfg), *_critical_training(cfg)]
        mistakes += without_quantization(cfg)
        if not mistakes:  # what follows reads choices and sets
            mistakes += [*missing_objects(cfg), *(quantized_training(cfg) if cfg.QUANT.QAT.ENABLED else ())]
    if mistakes:
        raise ValueError("config: " + "; ".join(mistakes))
    for warning in [*_without_effect(cfg), *(_frozen_at_random(cfg) if trains else ())]:
        logger.warning("%s", warning)


def _choices(cfg: CfgNode) -> Iterator[str]:
    for key, kind in _CHOICES.items():
        value = _get(cfg, key)
        if value not in list(kind):
            yield f"{key} is {value!r}, expected one of {', '.join(kind)}"


def _crop(cfg: CfgNode) -> Iterator[str]:
    crop = cfg.INPUT.DETR_AUG
    if not 0 <= crop.CROP_PROB <= 1:
        yield f"INPUT.DETR_AUG.CROP_PROB is {crop.CROP_PROB:g}, expected 0 (never) to 1"
    if len(crop.CROP_SIZE) != 2 or not 1 <= crop.CROP_SIZE[0] <= crop.CROP_SIZE[1]:
        yield f"INPUT.DETR_AUG.CROP_SIZE is {crop.CROP_SIZE}, expected the smallest and the largest side"
    if not 0 < crop.CROP_MIN <= 1:
        yield f"INPUT.DETR_AUG.CROP_MIN is {crop.CROP_MIN:g}, expected a part of the side, above 0 to 1"
    if not crop.CROP_RESIZE or min(crop.CROP_RESIZE) < 1:
        yield f"INPUT.DETR_AUG.CROP_RESIZE is {crop.CROP_RESIZE}, expected lengths in pixels"


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


def _dilation(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.RESNETS.RES5_DILATION > 1 and cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        yield (
            "MODEL.RESNETS.RES5_DILATION is above 1 and MODEL.BACKBONE.NAME build_resnet_backbone, whose "
            "dilation is not that of the released DC5 checkpoints: set it to build_dilated_resnet_backbone"
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


def _class_lists(cfg: CfgNode) -> Iterator[str]:
    """A model has one list of classes: other names, or another order, would be scored as wrong detections."""
    names = dict.fromkeys(name for key in ("TRAIN", "TEST") for name in cfg.DATASETS[key])
    known = {name: MetadataCatalog.get(name).get("thing_classes") for name in names if name in DatasetCatalog}
    known = {name: classes for name, classes in known.items() if classes}
    for (first, expected), (name, found) in itertools.product(list(known.items())[:1], known.items()):
        if found != expected:
            pairs = enumerate(itertools.zip_longest(expected, found))
            index, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            yield (
                f"data sets {first!r} and {name!r} have other categories: class {index} is {one!r} in the "
                f"first and {other!r} in the second; give both the same names in the order of their ids"
            )


def _critical_sets(cfg: CfgNode, key: str, split: str) -> Iterator[str]:
    """The sets are resolved on the split that uses them, where its super-categories are known by now."""
    value, known = _get(cfg, key), () if key == "CRITICAL.SETS" else cfg.CRITICAL.SETS
    if isinstance(value, str):
        resolve = functools.partial(resolve_category_set, as_defined(value, known))
    else:
        resolve = functools.partial(resolve_category_sets, [as_defined(spec, known) for spec in value])
    for name in cfg.DATASETS[split]:
        metadata = MetadataCatalog.get(name)
        if metadata.get("thing_supercategories") is None:
            continue
        try:
            resolve(metadata)
        except ValueError as error:
            yield f"{key}, data set {name!r}: {error}"


def _mixed_precision(cfg: CfgNode) -> Iterator[str]:
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        yield "SOLVER.AMP.ENABLED is True and MODEL.DEVICE cpu: mixed precision needs a GPU, set it to False"


def _quantization(cfg: CfgNode) -> Iterator[str]:
    quant = cfg.QUANT
    percentile = quant.ACTIVATION.PERCENTILE
    if not 50 < percentile <= 100:
        yield f"QUANT.ACTIVATION.PERCENTILE is {percentile:g}, expected above 50 and at most 100"
    if quant.ATTENTION_PRODUCTS and not quant.ACTIVATION.BITS:
        yield (
            "QUANT.ATTENTION_PRODUCTS quantizes activations and QUANT.ACTIVATION.BITS is 0: "
            f"set it to {MIN_BITS} to {MAX_BITS}"
        )
    if quant.BIAS_CORRECTION not in ("none", *BiasMode):
        yield f"QUANT.BIAS_CORRECTION is {quant.BIAS_CORRECTION!r}, expected none, {', '.join(BiasMode)}"
    if not 0 <= quant.WEIGHT.DAMPING < float("inf"):
        yield f"QUANT.WEIGHT.DAMPING is {quant.WEIGHT.DAMPING:g}, expected 0 or more"
    if quant.WEIGHT.ROUNDING != RoundingMethod.NEAREST and cfg.FISHER.METHOD == GradientMethod.SINGLE:
        yield (
            f"QUANT.WEIGHT.ROUNDING is {quant.WEIGHT.ROUNDING} and FISHER.METHOD single, which knows no "
            "inputs of layers: set the former to nearest or the latter to batched"
        )
    if quant.CALIBRATION.NUM_IMAGES < 1:
        yield f"QUANT.CALIBRATION.NUM_IMAGES is {quant.CALIBRATION.NUM_IMAGES}, expected 1 or more"


def _allocation(cfg: CfgNode) -> Iterator[str]:
    keys = cfg.ALLOCATION
    if not 0 <= keys.MIP_GAP < 1:
        yield f"ALLOCATION.MIP_GAP is {keys.MIP_GAP:g}, expected at least 0 and below 1"
    if not keys.TIME_LIMIT > 0:
        yield f"ALLOCATION.TIME_LIMIT is {keys.TIME_LIMIT:g}, expected seconds above 0"
    if keys.ARM == Arm.UNIFORM and not float(keys.AVERAGE_BITS).is_integer():
        yield f"ALLOCATION.AVERAGE_BITS is {keys.AVERAGE_BITS:g}, expected a whole number with ARM 'uniform'"
    if keys.SENSITIVITY_FILE and keys.ALLOCATION_FILE:
        yield (
            "ALLOCATION.SENSITIVITY_FILE and ALLOCATION.ALLOCATION_FILE are both set: keep the latter to "
            "take the stored widths, the former to choose them anew"
        )
    without_products = keys.SENSITIVITY in (SensitivityForm.MEASURED, SensitivityForm.HAWQ_TRACE)
    if (keys.ARM, keys.COMBINE) == (Arm.FISHER_CRITICAL, Combination.SQUARE_OF_SUM) and without_products:
        yield (
            f"ALLOCATION.COMBINE is {keys.COMBINE}, and the sensitivity {keys.SENSITIVITY} has no products "
            f"of two gradients: set it to {Combination.SUM_OF_NORMALIZED}"
        )
    for key in ("MAX_CONTAINER_BYTES", "MAX_BIT_OPERATIONS", "MAX_LATENCY"):
        if not 0 <= keys[key] < float("inf"):
            yield f"ALLOCATION.{key} is {keys[key]:g}, expected 0 (no limit) or more"
    if bool(keys.MAX_LATENCY) != bool(keys.LATENCY_TABLE):
        yield "ALLOCATION.MAX_LATENCY and ALLOCATION.LATENCY_TABLE belong together: set both, or neither"
    yield from _fisher(cfg)
    try:
        Objective(keys.OVERALL_WEIGHT, keys.CRITICAL_WEIGHT)
    except ValueError as error:
        yield f"ALLOCATION.OVERALL_WEIGHT, CRITICAL_WEIGHT: {error}"
    if keys.CRITICAL_SETS:
        yield from _critical_sets(cfg, "ALLOCATION.CRITICAL_SETS", "TRAIN")
        if len(keys.CRITICAL_SETS) > 1 and keys.COMBINE != Combination.SUM_OF_NORMALIZED:
            yield (
                f"ALLOCATION.COMBINE is {keys.COMBINE}, which does not make critical sets comparable: set it "
                f"to {Combination.SUM_OF_NORMALIZED}"
            )
    if keys.SET_WEIGHTS and len(keys.SET_WEIGHTS) != len(keys.CRITICAL_SETS):
        yield (
            f"ALLOCATION.SET_WEIGHTS has {len(keys.SET_WEIGHTS)} weights for {len(keys.CRITICAL_SETS)} "
            "ALLOCATION.CRITICAL_SETS: expected one for each, or none"
        )
    if not all(0 < weight < float("inf") for weight in keys.SET_WEIGHTS):
        yield f"ALLOCATION.SET_WEIGHTS is {tuple(keys.SET_WEIGHTS)}, expected numbers above 0"
    if cfg.CRITICAL.TARGET:
        yield from _critical_sets(cfg, "CRITICAL.TARGET", "TRAIN")
    elif not keys.CRITICAL_SETS and keys.ARM in (Arm.FISHER_CRITICAL, Arm.REWEIGHTED):
        yield f"CRITICAL.TARGET is empty: ALLOCATION.ARM {keys.ARM} needs a critical set, name it there"
    if not 0 < cfg.CRITICAL.REWEIGHT < float("inf"):
        yield f"CRITICAL.REWEIGHT is {cfg.CRITICAL.REWEIGHT:g}, expected a factor above 0"


def _fisher(cfg: CfgNode) -> Iterator[str]:
    keys = cfg.FISHER
    for key, least in (("BATCH_SIZE", 1), ("BATCH_PIXELS", 1), ("SAVE_EVERY", 0), ("HAWQ_PROBES", 1)):
        if keys[key] < least:
            yield f"FISHER.{key} is {keys[key]}, expected {least} or more"
    if not 0 < keys.LABEL_NOISE < 1:
        yield f"FISHER.LABEL_NOISE is {keys.LABEL_NOISE:g}, expected a part of the image, above 0 and below 1"
    if keys.VALIDATE:
        yield from _validation(cfg)
    if not 0 <= keys.RELATIVE_ERROR < 1:
        yield f"FISHER.RELATIVE_ERROR is {keys.RELATIVE_ERROR:g}, expected 0 (all images) or more, below 1"


def _validation(cfg: CfgNode) -> Iterator[str]:
    keys = cfg.FISHER
    if keys.VALIDATE_IMAGES < 2:
        yield f"FISHER.VALIDATE_IMAGES is {keys.VALIDATE_IMAGES}, expected 2 or more"
    absent = [bits for bits in keys.VALIDATE_WIDTHS if bits not in cfg.ALLOCATION.WIDTHS]
    if absent or list(keys.VALIDATE_WIDTHS) != sorted(set(keys.VALIDATE_WIDTHS)) or not keys.VALIDATE_WIDTHS:
        yield (
            f"FISHER.VALIDATE_WIDTHS is {tuple(keys.VALIDATE_WIDTHS)}, expected ascending widths of "
            f"ALLOCATION.WIDTHS {tuple(cfg.ALLOCATION.WIDTHS)}"
        )
    if cfg.ALLOCATION.ARM == Arm.UNIFORM or cfg.ALLOCATION.ALLOCATION_FILE:
        yield "FISHER.VALIDATE needs sensitivities: an ALLOCATION.ARM that has some, and no stored widths"


def _critical_training(cfg: CfgNode) -> Iterator[str]:
    weight, wants = cfg.CRITICAL.TRAIN_WEIGHT, needs_critical_set(cfg)
    if not 0 <= weight < float("inf"):
        yield f"CRITICAL.TRAIN_WEIGHT is {weight:g}, expected 0 (none) or more"
    if not wants:
        return
    if not cfg.CRITICAL.TARGET:
        yield f"CRITICAL.TARGET is empty: {' and '.join(wants)} needs a critical set, name it there"
    else:
        yield from _critical_sets(cfg, "CRITICAL.TARGET", "TRAIN")


def _without_effect(cfg: CfgNode) -> Iterator[str]:
    default = get_cfg()
    for key, instead in _IGNORED.items():
        if _get(cfg, key) != _get(default, key):
            yield f"{key} is set and has no effect here: {instead}"


def _frozen_at_random(cfg: CfgNode) -> Iterator[str]:
    frozen = cfg.MODEL.BACKBONE.FREEZE_AT
    if frozen > 0 and not (cfg.MODEL.WEIGHTS or cfg.MODEL.BACKBONE.WEIGHTS):
        yield (
            f"MODEL.BACKBONE.FREEZE_AT is {frozen}, MODEL.WEIGHTS and MODEL.BACKBONE.WEIGHTS are empty: the "
            "frozen layers of a new model keep random weights; name some, or set FREEZE_AT to 0"
        )


def _get(cfg: CfgNode, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
