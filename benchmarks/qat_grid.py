#!/usr/bin/env python
"""Does the Fisher-trace penalty help? Quantization-aware training in all arms, models and paired seeds.

    python -m benchmarks.qat_grid --cells deformable --jobs 2 --output benchmarks/results/street_qat.json

Trains what is not trained yet, goes on where a run was cut off, evaluates what is not evaluated yet, and
writes the tables from what there is: the same command again does only what is missing. Every arm of a cell
starts from the same quantized model, and seed s sees the same images in every arm.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.qat_measure import measure
from benchmarks.qat_tables import describe
from fisher_detr.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
PENALTY = "QUANT.QAT.PENALTY.WEIGHT"
FEW = 200  # training images of the cell in which the paper finds the effect large


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model and training set.

    Attributes:
        config: of the training.
        arms: which of `ARMS`.
        seeds: of the runs.
        overrides: config keys and values.
        images: training images; 0: all.
    """

    config: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    images: int = 0


# The first trains nothing; the weights were chosen on val (docs/qat.md).
ARMS: dict[str, tuple[str, ...]] = {
    "ptq": (),
    "qat": (),
    "qat_distill": ("QUANT.QAT.DISTILL.ENABLED", "True"),
    "qat_overall": (PENALTY, "1.0", "QUANT.QAT.PENALTY.OBJECTIVE", "overall"),
    "qat_critical": (PENALTY, "1.0"),
    "qat_reweighted": ("CRITICAL.TRAIN_WEIGHT", "1.0"),
}
PAIR = ("ptq", "qat", "qat_critical")
CELLS = {
    "deformable": Cell("configs/street/deformable_detr_small_qat.yaml", tuple(ARMS), (1, 2, 3, 4, 5)),
    "detr": Cell("configs/street/detr_small_qat.yaml", PAIR, (1, 2, 3)),
    "dab": Cell("configs/street/dab_detr_small_qat.yaml", PAIR, (1, 2, 3)),
    "few_images": Cell(
        "configs/street/deformable_detr_small_qat.yaml", PAIR, (1, 2, 3), ("SOLVER.MAX_ITER", "1600"), FEW
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, or for the arm `ptq` its start."""

    cell: str
    arm: str
    seed: int
    overrides: tuple[str, ...]
    root: Path

    @property
    def folder(self) -> Path:
        """Where it leaves its files."""
        return self.root / self.cell / self.arm / f"seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """Of the quantized model."""
        return self.start if self.arm == "ptq" else self.folder / "model_final.pth"

    @property
    def start(self) -> Path:
        """The quantized model that all arms of a cell start from."""
        return self.root / self.cell / "start" / "model_quantized.pth"


def main() -> None:
    """Parse the command line, do what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: those of the cell")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the cell")
    parser.add_argument("--weights", nargs="+", help="also: qat_critical with these weights, to choose one")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="to evaluate on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "qat_grid")
    parser.add_argument("--output", help="results file (JSON)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values for all runs")
    args = parser.parse_args()
    found = {name: run_cell(name, args) for name in args.cells}
    results = describe(found, args.split, sys.argv[1:])
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def run_cell(name: str, args: argparse.Namespace) -> dict[str, dict[int, dict]]:
    """Results of a cell by arm and seed."""
    cell = CELLS[name]
    arms = {arm: ARMS[arm] for arm in args.arms or cell.arms}
    arms |= {f"qat_critical_{weight}": (PENALTY, weight) for weight in args.weights or ()}
    common = (*cell.overrides, *_data(cell, args.folder / name), *args.opts)
    runs = [
        Run(name, arm, seed, (*common, *keys), args.folder)
        for arm, keys in arms.items()
        for seed in ((0,) if arm == "ptq" else args.seeds or cell.seeds)
    ]
    quantize(cell, runs[0], common)
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda run: train_and_measure(cell, run, args.split), runs))
    found: dict[str, dict[int, dict]] = {}
    for run, result in zip(runs, results, strict=True):
        found.setdefault(run.arm, {})[run.seed] = result
    return found


def quantize(cell: Cell, run: Run, overrides: tuple[str, ...]) -> None:
    """Make the start of a cell, unless it is there."""
    if not run.start.exists():
        train_net(cell.config, *overrides, "QUANT.QAT.ENABLED", "False", "OUTPUT_DIR", str(run.start.parent))


def train_and_measure(cell: Cell, run: Run, split: str) -> dict:
    """Do what is missing of a run; returns what was measured."""
    result = run.folder / f"result_{split}.json"
    if not run.checkpoint.exists():
        train(cell, run)
    if not result.exists():
        print(f"measuring {run.cell} {run.arm} seed {run.seed} on {split}", flush=True)
        found = measure(cell.config, run.overrides, run.checkpoint, run.folder, split)
        write_json(result, found | {"minutes": _minutes(run)})
    return read_json(result, "result")


def train(cell: Cell, run: Run) -> None:
    """Train, or go on with a training that was cut off."""
    teacher = ("QUANT.QAT.DISTILL.TEACHER", _teacher(cell))
    keys = ("MODEL.WEIGHTS", str(run.start), "SEED", str(run.seed), "OUTPUT_DIR", str(run.folder))
    resume = ("--resume",) if (run.folder / "last_checkpoint").exists() else ()
    print(f"training {run.cell} {run.arm} seed {run.seed}", flush=True)
    start = time.perf_counter()
    train_net(cell.config, *resume, *run.overrides, *teacher, *keys, "TEST.EVAL_PERIOD", "0")
    with (run.folder / "seconds.txt").open("a") as file:  # one line for each part of an interrupted run
        file.write(f"{time.perf_counter() - start:.0f}\n")


def train_net(config: str, *arguments: str) -> None:
    """The command line, on one core and one GPU-less process, its output in the run's own log."""
    command = [sys.executable, "tools/train_net.py", "--config-file", config, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def _teacher(cell: Cell) -> str:
    from fisher_detr.engine import load_config

    return load_config(str(ROOT / cell.config)).MODEL.WEIGHTS


def _minutes(run: Run) -> float | None:
    path = run.folder / "seconds.txt"
    return sum(map(float, path.read_text().split())) / 60 if path.exists() else None


def _data(cell: Cell, folder: Path) -> tuple[str, ...]:
    """Config keys of a training set of fewer images, which is made here."""
    if not cell.images:
        return ()
    from detectron2.data import MetadataCatalog

    from fisher_detr.engine import load_config

    cfg = load_config(str(ROOT / cell.config))
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    path = folder / "train.json"
    if not path.exists():
        whole = read_json(metadata.json_file, "annotations")
        images = sorted(whole["images"], key=lambda image: image["id"])[: cell.images]
        kept = {image["id"] for image in images}
        annotations = [a for a in whole["annotations"] if a["image_id"] in kept]
        write_json(path, whole | {"images": images, "annotations": annotations})
    name = f"few_{cell.images}"
    register = [*cfg.DATASETS.REGISTER, f"{name}:{path}:{metadata.image_root}"]
    return ("DATASETS.REGISTER", repr(register), "DATASETS.TRAIN", f"('{name}',)")


if __name__ == "__main__":
    main()
