"""A run's folder becomes an entry: weights alone, packed where quantized, measured as they are shipped."""

import dataclasses
import datetime
import math
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detectron2.config import CfgNode

from fisher_detr.checkpoint import save_weights
from fisher_detr.engine import (
    environment,
    evaluate,
    float_bytes,
    known_categories,
    load_config,
    load_float,
    load_quantized,
    model_coverage,
    portable_config,
    read_config,
    setting_differences,
)
from fisher_detr.model_zoo.catalog import hashed_name, write_entry
from fisher_detr.model_zoo.run_folder import QUANTIZED, RunFolder
from fisher_detr.model_zoo.zoo_entry import Measured, Metric, Quantization, Training, ZooEntry
from fisher_detr.modeling import DetrBase
from fisher_detr.structures import Arm

# What is published of a rerun: two processors may order float sums in two ways.
TOLERANCE = 0.3
# An allocation meets its budget of bytes, scales included, and not the average exactly.
WIDTH_TOLERANCE = 0.25
_OVERALL = ("AP", "AP50", "AP75")
# Settings of one machine or one run: no command names them.
_OWN = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")
# Settings that only make a model, and that evaluating it does not need.
_MAKING = ("SOLVER.", "MODEL_EMA.", "DATALOADER.", "FISHER.", "QUANT.CALIBRATION.", "QUANT.QAT.PENALTY.")
_MAKING += ("QUANT.QAT.DISTILL.", "MODEL.WEIGHTS", "MODEL.BACKBONE.WEIGHTS", "SEED", "TEST.EVAL_PERIOD")
_MAKING += ("TEST.BEST_METRIC", "INPUT.DETR_AUG.", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN")
_TEACHER = "QUANT.QAT.DISTILL.TEACHER"


@dataclasses.dataclass(frozen=True)
class Publication:
    """What a publisher says of a model.

    Attributes:
        name: of the entry.
        model: title; quantized models share it with their float one.
        config_file: in the repository, that the run was started with.
        settings: alternating keys and values that replace the run's for the measurement.
        seconds: that it took to make; None: as the run's log tells.
        command: that made it; None: the config file with the settings in which the run differs.
        url: https folder where the publisher will put the weights; None: they are shipped.
        half: store what is not quantized in float16.
    """

    name: str
    model: str
    config_file: str
    settings: Sequence[str] = ()
    seconds: float | None = None
    command: str | None = None
    url: str | None = None
    half: bool = False


def publish(run: RunFolder, told: Publication) -> Path:
    """Strip, pack, measure and enter the model of a run.

    Returns:
        the entry's file. Weights with a `url` lie beside those of the run, under their published name.

    Raises:
        ValueError: the run was started with another kind of config, its widths are not those that it says,
            or a setting is a path of this machine.
        OSError: a file is missing.
    """
    _check(told)
    commands, seconds = _commands(run, told), told.seconds or run.seconds
    if seconds is None:
        raise ValueError(f"the log of {run.weights.parent} does not tell what it took: give --seconds")
    cfg = load_config(str(run.config), [*told.settings, "MODEL.WEIGHTS", str(run.weights)])
    training = Training(told.command or commands[0], seconds)
    with tempfile.TemporaryDirectory() as folder:
        file, entry = _strip_and_measure(cfg, told, commands[1], folder)
        return _enter(dataclasses.replace(entry, training=training), file, run.weights.parent, told.url)


def _check(told: Publication) -> None:
    """Raise ValueError for what no entry may have, before minutes of measuring."""
    file = {"file": "x", "sha256": "0" * 64, "url": told.url} if told.url else {}
    metrics = {"AP": Metric(0.0)}
    ZooEntry(told.name, told.model, "x", "x", metrics, config=told.config_file, quoted="x", **file)


def _strip_and_measure(cfg: CfgNode, told: Publication, command: str, folder: str) -> tuple[Path, ZooEntry]:
    """The weights alone, in a folder, and what is measured with them."""
    model, categories = _load(cfg), known_categories(cfg)
    quantization = _quantization(cfg) if cfg.QUANT.ENABLED else None
    info = {"config": portable_config(cfg), "categories": categories}
    measured = _measured(_with_weights(cfg, save_weights(folder, told.name, model, info, told.half)))
    info["metrics"] = {name: metric.value for name, metric in measured["metrics"].items()}
    if quantization:
        info["allocation"] = {key: value for key, value in dataclasses.asdict(quantization).items() if value}
    file = save_weights(
        folder, told.name, model, info, told.half
    )  # the same tensors, and what was measured of them
    return file, ZooEntry(
        **measured,
        name=told.name,
        model=told.model,
        config=told.config_file,
        command=command,
        size_bytes=_quantized_bytes(cfg, model) if cfg.QUANT.ENABLED else float_bytes(model),
        quantization=quantization,
        categories=categories,
    )


def _enter(entry: ZooEntry, file: Path, folder: Path, url: str | None) -> Path:
    if url is None:
        return write_entry(entry, file)
    published = folder / hashed_name(entry.name, file)
    shutil.copyfile(file, published)
    return write_entry(entry, file, f"{url.rstrip('/')}/{published.name}")


def _load(cfg: CfgNode) -> DetrBase:
    return load_quantized(cfg) if cfg.QUANT.ENABLED else load_float(cfg)


def _with_weights(cfg: CfgNode, file: str | os.PathLike) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(file)
    return cfg


def _measured(cfg: CfgNode) -> dict[str, Any]:
    """Fields of an entry that come from evaluating the shipped file."""
    start = time.perf_counter()
    model = _load(cfg)
    results = evaluate(cfg, model)["bbox"]
    data_set, _, split = cfg.DATASETS.TEST[0].rpartition("_")
    where = environment()
    return {
        "data_set": data_set or split,
        "split": split,
        "metrics": {
            name: Metric(round(float(value), 2), TOLERANCE)
            for name, value in results.items()
            if math.isfinite(value) and (name in _OVERALL or name.startswith(("APcrit_", "AP_")))
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "measured": Measured(
            torch=where["torch"],
            device=where["device"],
            date=datetime.datetime.now(datetime.UTC).date(),
            seconds=round(time.perf_counter() - start, 1),
        ),
    }


def _quantized_bytes(cfg: CfgNode, model: DetrBase) -> int:
    """Of the whole model, whose widths are what the config says.

    Raises:
        ValueError: they are not.
    """
    report = model_coverage(cfg, model)
    expected = cfg.ALLOCATION.AVERAGE_BITS
    if abs(report.average_bits - expected) > WIDTH_TOLERANCE:
        raise ValueError(
            f"the weights in {cfg.MODEL.WEIGHTS} are {report.average_bits:.2f} bits wide on average, "
            f"ALLOCATION.AVERAGE_BITS is {expected:g}: name the width they have"
        )
    return report.total_bytes


def _quantization(cfg: CfgNode) -> Quantization:
    arm = Arm(cfg.ALLOCATION.ARM)
    return Quantization(
        arm=arm,
        average_bits=cfg.ALLOCATION.AVERAGE_BITS,
        activation_bits=cfg.QUANT.ACTIVATION.BITS,
        critical_set=cfg.CRITICAL.TARGET if arm is Arm.FISHER_CRITICAL else None,
    )


def _commands(run: RunFolder, told: Publication) -> tuple[str, str]:
    """The driver's commands that make the model and that print its numbers."""
    base = read_config(told.config_file)
    making = setting_differences(base, read_config(str(run.config)))
    making = _before_start({key: value for key, value in making.items() if key not in _OWN}, base)
    evaluating = {key: value for key, value in making.items() if not key.startswith(_MAKING)}
    evaluating |= zip(told.settings[::2], told.settings[1::2], strict=True)
    evaluating = {"MODEL.WEIGHTS": f"zoo://{told.name}"} | evaluating
    evaluating.pop("OUTPUT_DIR", None)
    making.pop("DATASETS.TEST", None)
    named = evaluating if told.command else making | evaluating
    if local := [f"{key} {value}" for key, value in named.items() if _names_machine(value)]:
        raise ValueError(
            f"settings of {run.config} name paths of this machine ({'; '.join(local)}): put them into a "
            "config of the repository, relative to it"
        )
    return _command(told.config_file, [], making), _command(told.config_file, ["--eval-only"], evaluating)


def _before_start(settings: dict[str, str], base: CfgNode) -> dict[str, str]:
    """Settings as they were before a training that quantizes first has named its start and its teacher."""
    if not settings.get("MODEL.WEIGHTS", "").endswith(f"start/{QUANTIZED}"):
        return settings
    weights = settings.get(_TEACHER, base.MODEL.WEIGHTS)
    made = {"MODEL.WEIGHTS", "MODEL.BACKBONE.WEIGHTS", _TEACHER}
    named = {} if weights == base.MODEL.WEIGHTS else {"MODEL.WEIGHTS": weights}
    return named | {key: value for key, value in settings.items() if key not in made}


def _names_machine(value: str) -> bool:
    words = re.split(r"[\s'\":,()\[\]]+", re.sub(r"\w+://", "", value))  # an address is no path
    return any(PurePosixPath(word).is_absolute() for word in words)


def _command(config_file: str, flags: list[str], settings: dict[str, str]) -> str:
    words = [*flags, *(word for pair in settings.items() for word in pair)]
    return shlex.join(["python", "tools/train_net.py", "--config-file", config_file, *words])
