"""Where the models of the arms are, as far as their files tell."""

import dataclasses
import os
from pathlib import Path

from fisher_detr.report.arms import EMA, ReportArm, run_folder, typed_words

_TRAINED, _QUANTIZED, _AVERAGED = "model_final.pth", "model_quantized.pth", "model_final_ema.pth"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model.

    Attributes:
        weights: path, or an address of the model zoo.
        config: all settings, which a run keeps beside its weights; None: unknown.
    """

    weights: str
    config: str | None = None

    def as_model(self) -> str:
        """For `--model` of `tools/measure_landscape.py`, which takes a run by its folder."""
        path = Path(self.weights)
        first = next((name for name in (_TRAINED, _QUANTIZED) if path.with_name(name).is_file()), None)
        return str(path.parent) if self.config and path.name == first else self.weights


def checkpoint_of(arm: ReportArm) -> Checkpoint | None:
    """The model that was evaluated; None: it is unknown, or was not kept."""
    made, run = arm.provenance or {}, run_folder(arm.folder)
    started = made.get("started_from")
    if started and "--eval-only" in typed_words(arm):
        return _read(Path(started)) if os.path.isfile(started) else Checkpoint(started)
    averaged = output_folder(arm) == run / EMA
    for name in [_AVERAGED] if averaged else [_TRAINED, _QUANTIZED]:
        if (run / name).is_file():
            return _read(run / name)
    # One that was trained began with other weights; Detectron2's trainer leaves its scalars.
    trained = averaged or (run / "metrics.json").is_file()
    return Checkpoint(started) if started and arm.is_float and not trained else None


def output_folder(arm: ReportArm) -> Path | None:
    """OUTPUT_DIR of the evaluation; None: it was not made by a trainer."""
    return arm.folder.parent.parent if arm.folder.parent.name == "inference" else None


def _read(weights: Path) -> Checkpoint:
    """With its config, if it is called as a run calls it."""
    beside = weights.with_suffix(".yaml") if weights.name == _QUANTIZED else weights.with_name("config.yaml")
    known = weights.name.startswith("model_") and beside.is_file()
    return Checkpoint(str(weights), str(beside) if known else None)
