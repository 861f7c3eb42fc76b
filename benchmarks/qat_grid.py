#!/usr/bin/env python
"""Does the Fisher-trace penalty help? Quantization-aware training in all arms, models and paired seeds.

    python -m benchmarks.qat_grid --cells deformable --jobs 2 --output benchmarks/results/street_qat.json

Trains what is not trained yet, goes on where a run was cut off, evaluates what is not evaluated yet, and
writes the tables from what there is: the same command again does only what is missing. What was measured is
kept for each run in --results, so that the grid can be shared by machines: carry these files. Every arm of
a cell starts from the same quantized model, and seed s sees the same images in every arm.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from benchmarks.qat_runs import FULL, PTQ, ROOT, Run, quantize, say, train_and_measure
from benchmarks.qat_tables import describe
from benchmarks.subsets import subset_entry
from fisher_detr.engine import load_config, read_config, setting_differences
from fisher_detr.files import write_json

PENALTY, INTERVAL = "QUANT.QAT.PENALTY.WEIGHT", "QUANT.QAT.PENALTY.INTERVAL"
LAMBDA = "0.0001"  # the best of those in results/street_qat_lambda.json
SHORT, LONG = ("SOLVER.MAX_ITER", "500"), ("SOLVER.MAX_ITER", "800")
RESULTS = ROOT / "benchmarks" / "results" / "street_qat"
FEW = 200  # training images of the cell in which the paper finds the effect large
# Results by cell, arm and seed.
Results = dict[str, dict[str, dict[int, dict]]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model and training set.

    Attributes:
        model: of the street configs.
        arms: which of `ARMS`.
        seeds: of the runs.
        keys: config keys and values.
        images: training images; 0: all.
    """

    model: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    keys: tuple[str, ...] = ()
    images: int = 0

    @property
    def config(self) -> str:
        """Of the training."""
        return f"configs/street/{self.model}_small_qat.yaml"


# The first two train nothing.
ARMS: dict[str, tuple[str, ...]] = {
    FULL: (),
    PTQ: (),
    "qat": (),
    "qat_distill": ("QUANT.QAT.DISTILL.ENABLED", "True"),
    "qat_overall": (PENALTY, LAMBDA, "QUANT.QAT.PENALTY.OBJECTIVE", "overall"),
    "qat_critical": (PENALTY, LAMBDA),
    "qat_reweighted": ("CRITICAL.TRAIN_WEIGHT", "1.0"),
}
# The grid was measured from starts that are rounded to nearest, which leaves training more to win back; they
# were the default then.
TO_NEAREST = ("QUANT.WEIGHT.ROUNDING", "nearest")
PAIR = (FULL, PTQ, "qat", "qat_critical")
CELLS = {
    "deformable": Cell("deformable_detr", tuple(ARMS), (1, 2, 3, 4, 5), SHORT),
    "few_images": Cell("deformable_detr", PAIR, (1, 2, 3), LONG, FEW),
    "detr": Cell("detr", PAIR, (1, 2, 3), SHORT),
    "dab": Cell("dab_detr", PAIR, (1, 2, 3), SHORT),
    # Is what uniform widths lose won back, and how far does training take 2 bits?
    "uniform": Cell("deformable_detr", PAIR[:3], (1,), ("ALLOCATION.ARM", "uniform")),
    "two_bits": Cell("deformable_detr", (*PAIR[:3], "qat_distill"), (1,), ("ALLOCATION.AVERAGE_BITS", "2.0")),
}


def main() -> None:
    """Parse the command line, do what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: those of the cell")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the cell")
    parser.add_argument("--weights", nargs="+", help="also: qat_critical with these weights, to choose one")
    parser.add_argument("--intervals", nargs="+", help="also: every penalty with these, to choose one")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="to evaluate on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "qat_grid")
    parser.add_argument("--results", type=Path, default=RESULTS, help="of the single runs")
    parser.add_argument("--output", help="results file (JSON)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values for all runs")
    args = parser.parse_args()
    try:
        runs = [run for name in args.cells for run in runs_of(name, args)]
    except (ValueError, RuntimeError) as error:
        sys.exit(f"qat_grid: {error}")
    found, failures = do_runs(runs, args)
    if found:
        results = describe(found, args.split)
        if args.output:
            write_json(args.output, results)
        print(json.dumps(results["tables"], indent=1))
    if failures:
        sys.exit("qat_grid: " + "\n".join(failures))


def runs_of(name: str, args: argparse.Namespace) -> list[Run]:
    """The runs of a cell, whose start is made if it is not there."""
    cell, folder = CELLS[name], args.folder / name
    cfg = load_config(str(ROOT / cell.config))
    common = (*TO_NEAREST, *cell.keys, *fewer_images(cfg, cell.images, folder), *args.opts)
    runs = []
    for arm, of_arm in arms_of(cell, args).items():
        keys = (*common, *of_arm)
        of_cell = (keys, digest(cell.config, keys), folder, cfg.MODEL.WEIGHTS, args.results)
        seeds = (0,) if arm in (FULL, PTQ) else args.seeds or cell.seeds
        runs += [Run(cell.config, arm, seed, *of_cell) for seed in seeds]
    if not all(run.result(args.split).exists() for run in runs):
        quantize(runs[0], common, digest(cell.config, common))
    return runs


def arms_of(cell: Cell, args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Config keys of every arm: those of the cell or of the command line, and what is to be chosen from."""
    arms = {arm: ARMS[arm] for arm in args.arms or cell.arms}
    arms |= {f"qat_critical_{weight}": (PENALTY, weight) for weight in args.weights or ()}
    penalized = {arm: keys for arm, keys in arms.items() if PENALTY in keys}
    every = itertools.product(args.intervals or (), penalized.items())
    return arms | {f"{arm}_every_{k}": (*keys, INTERVAL, k) for k, (arm, keys) in every}


def digest(config: str, keys: Sequence[str]) -> str:
    """Of the settings of a run that are not the defaults, but the device.

    What is measured stays valid when a key is added that does nothing by default. A default that changes has
    to be named there, as the rounding of weights is in `TO_NEAREST`.
    """
    cfg = read_config(str(ROOT / config), [*keys, "MODEL.DEVICE", "cpu"])
    chosen = setting_differences(read_config(overrides=["MODEL.DEVICE", "cpu"]), cfg)
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def do_runs(runs: list[Run], args: argparse.Namespace) -> tuple[Results, list[str]]:
    """What was measured, and what went wrong with the other runs."""
    found: Results = {}
    failures = []
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = [(run, pool.submit(train_and_measure, run, args.split)) for run in runs]
        for run, result in waiting:
            try:
                seeds = found.setdefault(run.cell.name, {}).setdefault(run.arm, {})
                seeds[run.seed] = result.result()
            except (ValueError, RuntimeError) as error:
                say(str(error))
                failures.append(str(error))
    return found, failures


def fewer_images(cfg: CfgNode, count: int, folder: Path) -> tuple[str, ...]:
    """Config keys of a training set of the first `count` images, which is made in the folder; 0: of all."""
    if not count:
        return ()
    (whole,) = cfg.DATASETS.TRAIN
    first = sorted(record["image_id"] for record in DatasetCatalog.get(whole))[:count]
    name = f"few_{count}"
    register = [*cfg.DATASETS.REGISTER, subset_entry(whole, name, first, folder / "train.json")]
    return ("DATASETS.REGISTER", repr(register), "DATASETS.TRAIN", f"('{name}',)")


if __name__ == "__main__":
    main()
