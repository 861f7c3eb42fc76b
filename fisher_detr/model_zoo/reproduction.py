"""Runs of one table of the paper: from official checkpoints to numbers, kept as they come."""

import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from fisher_detr.checkpoint import ClassChoice, ClassPolicy, convert_official_file
from fisher_detr.engine import (
    ArmResult,
    KeptResults,
    PostTrainingQuantizer,
    evaluate_arms,
    evaluate_full_precision,
    load_config,
    load_float,
    load_quantized,
    model_coverage,
    read_config,
    target_set,
    target_spec,
    train,
)
from fisher_detr.model_zoo.paper import COCO, FLOAT_BITS, PANOPTIC, PaperData, PaperModel, PaperTable, Way
from fisher_detr.structures import Arm

logger = logging.getLogger(__name__)

# A head of new classes is trained, and a quantized model is, for so many passes over the training images.
TUNING_EPOCHS, QAT_EPOCHS = 50, 5
_FINAL = "model_final.pth"


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """One table, or a part of it.

    Attributes:
        table: which.
        models: which of its models.
        bits: which widths.
        checkpoints: folder of the official files.
        output: folder for everything that comes out; the same one goes on where it was left.
        configs: folder of the repository's configs.
        settings: alternating keys and values behind every config.
    """

    table: PaperTable
    models: Sequence[PaperModel]
    bits: Sequence[int]
    checkpoints: Path
    output: Path
    configs: Path
    settings: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One row of a table.

    Attributes:
        model: which.
        bits: average width of the weights; 32: full precision.
        critical_set: that the critical arms aim at.
        result: what was measured.
    """

    model: PaperModel
    bits: int
    critical_set: str
    result: ArmResult


def reproduce(work: Reproduction) -> Iterator[PaperRow]:
    """Measure what is not known yet; every row as soon as it is there.

    Raises:
        FileNotFoundError: official checkpoints are missing, all of them are named; or a data set is.
        ValueError: the output folder holds results of other settings.
    """
    _check_checkpoints(work)
    for model in work.models:
        start = _start(work, model)
        cfg = _config(work, model, "ptq", start)
        kept, critical_set = KeptResults(cfg), _target(cfg)
        full = kept.get("full_precision", functools.partial(_measure_float, cfg))
        yield PaperRow(model, FLOAT_BITS, critical_set, full)
        measure = _quantizing(cfg) if work.table.way is Way.PTQ else _training(work, model, start)
        for bits, arm in itertools.product(work.bits, work.table.arms):
            logger.info("%s, %s, %d bits", model.title, arm, bits)
            result = kept.get(f"{arm}_{bits}", functools.partial(measure, arm, bits))
            yield PaperRow(model, bits, critical_set, result)


def _check_checkpoints(work: Reproduction) -> None:
    names = [_official(model, work.table.data)[0] for model in work.models]
    if missing := [name for name in names if not (work.checkpoints / name).is_file()]:
        raise FileNotFoundError(
            f"{work.checkpoints} lacks {', '.join(missing)}: fetch them from their authors' repositories "
            "(docs/reproduce.md), or leave their models out"
        )


def _official(model: PaperModel, data: PaperData) -> tuple[str, bool]:
    """The official file to start from, and whether it has the classes of the data set."""
    if data == PANOPTIC and model.panoptic:
        return model.panoptic, True
    return model.checkpoint, data == COCO


def _start(work: Reproduction, model: PaperModel) -> str:
    """The model in full precision: the official file, or what is trained from it for other classes."""
    name, has_classes = _official(model, work.table.data)
    if has_classes:
        return str(work.checkpoints / name)
    folder = work.output / "float" / work.table.data.folder / model.leaf
    start, done = folder / "start.pth", folder / "done"
    if not start.exists():
        choice = ClassChoice(ClassPolicy.REINIT, work.table.data.num_classes)
        convert_official_file(work.checkpoints / name, start, choice)
    if not done.exists():
        train(_load(work, model.leaf, folder, str(start), epochs=TUNING_EPOCHS), resume=True)
        done.touch()
    return str(folder / _FINAL)


def _measure_float(cfg: CfgNode) -> ArmResult:
    return evaluate_full_precision(cfg, load_float(cfg))


def _quantizing(cfg: CfgNode) -> Callable[[str, int], ArmResult]:
    """Measures an arm and width after training; what they share is estimated when the first is missing."""

    @functools.cache
    def quantizer() -> PostTrainingQuantizer:
        return PostTrainingQuantizer.from_config(cfg, load_float(cfg))

    return lambda arm, bits: evaluate_arms(cfg, quantizer(), [Arm(arm)], float(bits))[0]


def _training(work: Reproduction, model: PaperModel, start: str) -> Callable[[str, int], ArmResult]:
    """Measures an arm and width with a training, which goes on where it was left."""

    def measure(arm: str, bits: int) -> ArmResult:
        settings = {"ALLOCATION.AVERAGE_BITS": f"{bits:.1f}", **work.table.arms[arm]}
        cfg = _config(work, model, f"{arm}_{bits}", start, settings, QAT_EPOCHS)
        metrics = train(cfg, resume=True)["bbox"]
        return _trained_result(cfg, arm, dict(metrics))

    return measure


def _trained_result(cfg: CfgNode, arm: str, metrics: dict[str, float]) -> ArmResult:
    made = cfg.clone()
    made.defrost()
    made.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, _FINAL)
    size = model_coverage(made, load_quantized(made)).total_bytes
    return ArmResult(arm, metrics, size, 0.0, cfg.OUTPUT_DIR, None)


def _config(
    work: Reproduction,
    model: PaperModel,
    folder: str,
    weights: str,
    settings: Mapping[str, str] | None = None,
    epochs: int | None = None,
) -> CfgNode:
    output = work.output / work.table.name / model.leaf / folder
    return _load(work, f"{model.leaf}_ptq", output, weights, settings, epochs)


def _load(
    work: Reproduction,
    leaf: str,
    output: Path,
    weights: str,
    settings: Mapping[str, str] | None = None,
    epochs: int | None = None,
) -> CfgNode:
    """A config of the table's data set; the user's settings have the last word."""
    path = str(work.configs / work.table.data.folder / f"{leaf}.yaml")
    named = {"MODEL.WEIGHTS": weights, "OUTPUT_DIR": str(output), **(settings or {})}
    words = list(itertools.chain(*named.items()))
    if epochs:
        words += _schedule(read_config(path, work.settings), work.table.data, epochs)
    return _with_target(load_config(path, [*words, *work.settings]))


def _schedule(cfg: CfgNode, data: PaperData, epochs: int) -> list[str]:
    """So many passes, with a tenth of the learning rate after four fifths of them."""
    steps = -(-data.train_images // cfg.SOLVER.IMS_PER_BATCH) * epochs
    return ["SOLVER.MAX_ITER", str(steps), "SOLVER.STEPS", f"({steps * 4 // 5},)"]


def _with_target(cfg: CfgNode) -> CfgNode:
    """The set that is aimed at is evaluated too."""
    if cfg.CRITICAL.TARGET:
        cfg.CRITICAL.SETS = (*cfg.CRITICAL.SETS, target_spec(cfg))
    cfg.freeze()
    return cfg


def _target(cfg: CfgNode) -> str:
    """Name of the set in the evaluator's metrics."""
    return target_set(cfg, "TEST").name
