"""The commands that a page prints: each makes what is missing, with what the arms tell filled in."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from fisher_detr.report.arms import ReportArm, config_file, typed_words
from fisher_detr.report.checkpoints import Checkpoint, checkpoint_of, output_folder
from fisher_detr.structures import Arm

# Placeholders, where no file of the runs tells.
CONFIG, CHECKPOINT, FOLDER, FILE = "CONFIG", "CHECKPOINT", "FOLDER", "FILE"
# Of what was typed beside the config: what the model is, sees and aims at, and not how it was quantized.
_OF_ALL = ("MODEL.", "DATASETS.", "CRITICAL.")
_KEY = re.compile(r"[A-Z]\w*(\.[A-Z]\w*)+")
_WEIGHTS = "MODEL.WEIGHTS"


@dataclasses.dataclass(frozen=True)
class Commands:
    """Commands to be copied into a shell, in the folder of the repository.

    Attributes:
        arms: of the report.
        folder: of what belongs to all arms.
        runs: as they were named for the report.
        page: the report's path.
    """

    arms: Sequence[ReportArm]
    folder: str
    runs: Sequence[str] = ()
    page: str = "report.html"

    def traces(self) -> str:
        """Makes `traces.json`."""
        return _line("measure_traces", *self._config(), "--output", self._file("traces"), *self._model())

    def pareto(self) -> str:
        """Makes `pareto.json`, and measures some of its plans."""
        output = self._file("pareto")
        return _line("allocate", *self._config(), "--pareto", output, "--measure", "5", *self._model())

    def landscape(self) -> str:
        """Makes `landscape.json`, of all arms whose checkpoints are known."""
        found = [(arm.name.replace("=", "-"), checkpoint_of(arm)) for arm in self.arms]
        models = [f"{name}={model.as_model()}" for name, model in found if model] or [f"NAME={CHECKPOINT}"]
        words = [word for model in models for word in ("--model", model)]
        output = self._file("landscape")
        return _line("measure_landscape", *self._config(), "--output", output, *words, *self._options())

    def quantization(self) -> str:
        """Makes an arm with `allocation.json` and `sensitivity.json`."""
        arm = str(Arm.FISHER_CRITICAL)
        # Not into the folder of a single arm: with two in it, it can no longer be given a name.
        output = f"{self.folder}/{arm}" if len(self.arms) > 1 else f"{self.folder}_{arm}"
        words = ("QUANT.ENABLED", "True", "ALLOCATION.ARM", arm, "OUTPUT_DIR", output)
        return _line("train_net", *self._config(), *self._model(), *words)

    def evaluation(self, arm: ReportArm) -> str:
        """Evaluates an arm again, into the same folder."""
        model, output = checkpoint_of(arm) or Checkpoint(CHECKPOINT), output_folder(arm)
        config = model.config or config_file([arm]) or self._config()[1]
        options = [] if model.config else _typed(arm)
        into = ["OUTPUT_DIR", str(output)] if output else []
        words = ("--eval-only", "--config-file", config, *options, _WEIGHTS, model.weights, *into)
        return _line("train_net", *words)

    def report(self) -> str:
        """Makes the page again, of images that have moved."""
        return _line("report", *self.runs, "--output", self.page, "--images", FOLDER, "--annotations", FILE)

    def _file(self, name: str) -> str:
        return f"{self.folder}/{name}.json"

    def _config(self) -> tuple[str, str]:
        """That of the arms, else the one that lies above them."""
        of_all = Path(self.folder) / "config.yaml"
        known = config_file(self._quantized_first()) or (str(of_all) if of_all.is_file() else None)
        return "--config-file", known or CONFIG

    def _quantized_first(self) -> list[ReportArm]:
        """Whose config has settings of quantization."""
        return sorted(self.arms, key=lambda arm: arm.is_float)

    def _told(self) -> ReportArm | None:
        """The arm that the config is of."""
        return next((arm for arm in self._quantized_first() if config_file([arm])), None)

    def _options(self) -> list[str]:
        told = self._told()
        return _typed(told, _OF_ALL) if told else []

    def _model(self) -> list[str]:
        """Options with the model in full precision, which need not be that of the config."""
        found = [checkpoint_of(arm) for arm in self.arms if arm.is_float]
        weights = next((model.weights for model in found if model), None) or _quantized_from(self._told())
        return [*self._options(), *((_WEIGHTS, weights) if weights else ())]


def _line(tool: str, *words: str) -> str:
    return shlex.join(["python", f"tools/{tool}.py", *words])


def _typed(arm: ReportArm, prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Keys and values from the command that made an arm; without the weights."""
    pairs = itertools.pairwise(typed_words(arm))
    found = [pair for pair in pairs if _KEY.fullmatch(pair[0]) and pair[0].startswith(prefixes)]
    return [word for pair in found if pair[0] != _WEIGHTS for word in pair]


def _quantized_from(arm: ReportArm | None) -> str | None:
    """The weights that a command has named to quantize or train them."""
    words = typed_words(arm) if arm else []
    typed = _WEIGHTS in words[:-1] and "--eval-only" not in words
    return words[words.index(_WEIGHTS) + 1] if typed else None
