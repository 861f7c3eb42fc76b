"""One training of the grid (`qat_grid`): made, gone on with and measured by processes of one core each."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fisher_detr.files import read_json, sha256_of, write_json

ROOT = Path(__file__).resolve().parents[1]
FULL, PTQ = "full_precision", "ptq"  # arms that train nothing
ATTEMPTS = "attempts.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm and seed of a cell.

    Attributes:
        config: of the training.
        arm: what is trained; or one of those that are not.
        seed: of the training.
        keys: config keys and values.
        settings: digest of the config with these keys.
        cell: folder of the cell.
        teacher: checkpoint in full precision.
        results: folder of what was measured, of all cells.
    """

    config: str
    arm: str
    seed: int
    keys: tuple[str, ...]
    settings: str
    cell: Path
    teacher: str
    results: Path

    @property
    def folder(self) -> Path:
        """Where it leaves its files."""
        return self.cell / self.arm / f"seed{self.seed}"

    def result(self, split: str) -> Path:
        """What was measured on a split; here or on another machine."""
        return self.results / self.cell.name / self.arm / f"seed{self.seed}_{split}.json"

    @property
    def start(self) -> Path:
        """The quantized model that all arms of a cell start from."""
        return self.cell / "start" / "model_quantized.pth"

    @property
    def checkpoint(self) -> Path:
        """What is measured."""
        kept = {FULL: ROOT / self.teacher, PTQ: self.start}
        return kept.get(self.arm, self.folder / "model_final.pth")


def quantize(run: Run, keys: Sequence[str], settings: str) -> None:
    """Make the start of a cell, unless it is there.

    Raises:
        ValueError: the one that is there is of other settings.
    """
    claim(run.start.parent, {"config": run.config, "keys": list(keys), "settings": settings})
    if not run.start.exists():
        train_net(run.config, *keys, "QUANT.QAT.ENABLED", "False", "OUTPUT_DIR", str(run.start.parent))


def train_and_measure(run: Run, split: str) -> dict:
    """Do what is missing of a run; returns what was measured.

    Raises:
        ValueError: the files that are there are of other settings, or of another start.
    """
    path = run.result(split)
    if not path.exists():
        start = sha256_of(run.start)
        settings = {"config": run.config, "keys": list(run.keys), "settings": run.settings}
        claim(run.folder, settings | {"start": start})
        if not run.checkpoint.exists():
            train(run)
        of_run = {"settings": run.settings, "start": start, "minutes": minutes(run.folder)}
        write_json(path, measure(run, split) | of_run)
    found = read_json(path, "result")
    if found["settings"] != run.settings:
        raise ValueError(f"{path} was measured with other settings: name another --results, or remove it")
    return found


def measure(run: Run, split: str) -> dict:
    """Evaluate what was trained."""
    say(f"measuring {run.cell.name} {run.arm} seed {run.seed} on {split}")
    command = ["-m", "benchmarks.qat_measure", run.config, str(run.checkpoint), str(run.folder), split]
    python(*command, *run.keys)
    return read_json(run.folder / f"result_{split}.json", "result")


def claim(folder: Path, settings: dict) -> None:
    """Say in a folder what it is for.

    Raises:
        ValueError: it has the files of other settings.
    """
    path = folder / "run.json"
    found = read_json(path, "run") if path.exists() else settings
    if found != settings:
        differing = [key for key, value in settings.items() if found.get(key) != value]
        raise ValueError(
            f"{folder} has the files of other settings ({path.name} differs in {', '.join(differing)}): name "
            "another --folder, or remove it"
        )
    write_json(path, settings)


def train(run: Run) -> None:
    """Train, or go on with a training that was cut off."""
    keys = ("MODEL.WEIGHTS", str(run.start), "QUANT.QAT.DISTILL.TEACHER", run.teacher)
    keys += ("SEED", str(run.seed), "OUTPUT_DIR", str(run.folder), "DATASETS.TEST", "()")
    resume = ("--resume",) if (run.folder / "last_checkpoint").exists() else ()
    say(f"training {run.cell.name} {run.arm} seed {run.seed}")
    with timed(run.folder):
        train_net(run.config, *resume, *run.keys, *keys)


@contextlib.contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Write down when an attempt begins and ends; one that was killed ended with its last metrics."""
    path, metrics = folder / ATTEMPTS, folder / "metrics.json"
    attempts = read_json(path, "attempts") if path.exists() else []
    if attempts and attempts[-1]["end"] is None:
        attempts[-1]["end"] = metrics.stat().st_mtime if metrics.exists() else attempts[-1]["start"]
    attempts.append({"start": time.time(), "end": None})
    write_json(path, attempts)
    yield
    attempts[-1]["end"] = time.time()
    write_json(path, attempts)


def minutes(folder: Path) -> float | None:
    """Time of a training, all attempts together; None: nothing was trained."""
    path = folder / ATTEMPTS
    if not path.exists():
        return None
    return sum(attempt["end"] - attempt["start"] for attempt in read_json(path, "attempts")) / 60


def train_net(config: str, *arguments: str) -> None:
    """The command line."""
    python("tools/train_net.py", "--config-file", config, *arguments)


def python(*arguments: str) -> None:
    """A process of one core, from the root of the repository.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def say(text: str) -> None:
    """On the error stream: standard output has the tables."""
    print(text, file=sys.stderr, flush=True)
