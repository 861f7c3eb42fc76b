#!/usr/bin/env python
"""The whole path in one command: data, a detector, four ways to spend the same bytes, and a table.

    tools/quickstart.py [--model detr|deformable|dab] [--qat] [--output FOLDER] [KEY VALUE ...]

Leaves `report.html`, `summary.json`, `detections.png` and what every arm has produced in the output folder.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from tabulate import tabulate

from fisher_detr.engine import (
    ArmResult,
    PostTrainingQuantizer,
    evaluate_arms,
    evaluate_full_precision,
    evaluate_nearest,
    load_config,
    load_float,
    save_config,
    train,
)
from fisher_detr.files import write_atomically, write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.report import (
    ReportRequest,
    build_report,
    compare_detections,
    find_arms,
    read_samples,
    target_set,
)
from fisher_detr.structures import NEAREST, Arm

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "output" / "quickstart"
CONFIGS = {
    "detr": "configs/street/detr_small_ptq.yaml",
    "deformable": "configs/street/deformable_detr_small_ptq.yaml",
    "dab": "configs/street/dab_detr_small_ptq.yaml",
}
PICTURES = 4
FILES = {  # that are told at the end
    "report.html": "what quantization did, for a browser",
    "summary.json": "these numbers",
    "detections.png": "detections before and after",
}


def main() -> None:
    """Parse the command line and go through the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="detr", help="the detector")
    parser.add_argument("--data", type=Path, default=FOLDER / "street", help="folder of the data set")
    parser.add_argument("--output", type=Path, help=f"default: {FOLDER.relative_to(ROOT)}/MODEL")
    parser.add_argument("--bits", type=float, default=3.0, help="of a weight, on average")
    parser.add_argument("--qat", action="store_true", help="also train the uniform model on, for minutes")
    parser.add_argument("--qat-iterations", type=int, help="default: those of the model's config")
    parser.add_argument("--num-test", type=int, default=500, help="test images to draw and evaluate")
    parser.add_argument("--num-train", type=int, default=2000, help="training images to draw")
    parser.add_argument("--num-calibration", type=int, default=256, help="of them, to quantize with")
    parser.add_argument("--results", help="results file (JSON) for benchmarks/results: the table, and how")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    output = args.output or FOLDER / args.model
    start = time.perf_counter()
    try:
        step(f"drawing street: {args.num_train} training and {args.num_test} test images")
        draw_street(args.data, args.num_train, args.num_test)
        cfg = configure(CONFIGS[args.model], args, output)
        results = run(cfg, output, training_config(args, output) if args.qat else None)
        if args.results:
            write_json(args.results, study(cfg, results))
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"quickstart: {error}")
    print(f"\n{table(cfg, results)}\n\n{time.perf_counter() - start:.0f} seconds in all")
    for name, what in FILES.items():
        print(f"  {output / name}: {what}")


def run(cfg: CfgNode, output: Path, training: CfgNode | None = None) -> list[ArmResult]:
    """Evaluate, quantize, evaluate; with the config of a training also train on. Returns the arms."""
    with quiet(output / "log.txt"):
        step("full precision")
        results = [evaluate_full_precision(cfg, load_float(cfg))]
        step(f"{NEAREST}: {cfg.ALLOCATION.AVERAGE_BITS:g} bits everywhere, without Fisher information")
        results.append(evaluate_nearest(cfg, load_float(cfg), cfg.ALLOCATION.AVERAGE_BITS))
        quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
        for arm in (Arm.UNIFORM, Arm.FISHER_OVERALL, Arm.FISHER_CRITICAL):
            step(f"{arm} at the bytes of {cfg.ALLOCATION.AVERAGE_BITS:g} bits")
            results += evaluate_arms(cfg, quantizer, [arm], cfg.ALLOCATION.AVERAGE_BITS)
        if training:
            step(f"uniform, trained on for {training.SOLVER.MAX_ITER} iterations")
            results.append(train_uniform(training, next(r for r in results if r.name == Arm.UNIFORM)))
    write_json(output / "summary.json", summary(cfg, results))
    save_config(cfg)  # what the report's commands name
    runs = [f"{result.name}={result.folder}" for result in results]
    draw_detections(cfg, runs, output / "detections.png")
    build_report(ReportRequest(runs, f"{cfg.MODEL.META_ARCHITECTURE} on street"), output / "report.html")
    return results


def training_config(args: argparse.Namespace, output: Path) -> CfgNode:
    """The committed config of the quantization-aware training of the uniform model."""
    config = CONFIGS[args.model].replace("_ptq", "_qat")
    cfg = configure(config, args, output / "uniform_qat")
    cfg.ALLOCATION.ARM = str(Arm.UNIFORM)
    cfg.SOLVER.MAX_ITER = args.qat_iterations or cfg.SOLVER.MAX_ITER
    return cfg


def train_uniform(cfg: CfgNode, start: ArmResult) -> ArmResult:
    """Train the uniform model on, anew each time."""
    shutil.rmtree(cfg.OUTPUT_DIR, ignore_errors=True)
    began = time.perf_counter()
    metrics = dict(train(cfg)["bbox"])
    seconds = time.perf_counter() - began
    return ArmResult("uniform, QAT", metrics, start.size_bytes, seconds, cfg.OUTPUT_DIR, start.allocation)


def draw_street(folder: Path, num_train: int, num_test: int) -> None:
    """Make the data set, unless it is there."""
    command = [sys.executable, ROOT / "datasets" / "make_street.py", "--output", folder]
    command += ["--splits", "train", "test", "--num-train", str(num_train), "--num-test", str(num_test)]
    if subprocess.run(command).returncode:
        raise ValueError(f"could not draw the data set into {folder}")


def configure(config: str, args: argparse.Namespace, output: Path) -> CfgNode:
    """The committed config on the data of this run."""
    data = args.data
    sets = [
        f"street_{split}:{data}/annotations/{split}.json:{data}/images/{split}" for split in ("train", "test")
    ]
    overrides = ["DATASETS.REGISTER", sets, "DATASETS.TEST", ("street_test",), "OUTPUT_DIR", str(output)]
    overrides += ["QUANT.CALIBRATION.NUM_IMAGES", args.num_calibration, "ALLOCATION.AVERAGE_BITS", args.bits]
    if "OUTPUT_DIR" in args.opts:
        raise ValueError("OUTPUT_DIR is among the config keys: name the folder by --output")
    cfg = load_config(str(ROOT / config), [*overrides, *args.opts])
    if "MODEL.WEIGHTS" not in args.opts:  # the config's is relative to the repository
        cfg.MODEL.WEIGHTS = str(ROOT / cfg.MODEL.WEIGHTS)
    return cfg


def table(cfg: CfgNode, results: list[ArmResult]) -> str:
    """The comparison: full precision first, then the arms at equal bytes."""
    floats = ("", ".1f", ".1f", ",.0f", ".0f")
    return tabulate(rows(cfg, results), columns(cfg), floatfmt=floats, intfmt=",")


def columns(cfg: CfgNode) -> list[str]:
    """Head of the table."""
    return ["arm", "AP", f"APcrit_{cfg.CRITICAL.TARGET}", "bytes", "seconds"]


def rows(cfg: CfgNode, results: list[ArmResult]) -> list[list]:
    """One for each arm."""
    critical = f"APcrit_{cfg.CRITICAL.TARGET}"
    return [[x.name, x.metrics["AP"], x.metrics[critical], x.size_bytes, x.seconds] for x in results]


def study(cfg: CfgNode, results: list[ArmResult]) -> dict:
    """The table as benchmarks keep theirs."""
    found = {"caption": f"{cfg.ALLOCATION.AVERAGE_BITS:g} bits on average", "columns": columns(cfg)}
    found["rows"] = [[None if x != x else x for x in row] for row in rows(cfg, results)]
    title = f"Quickstart, {cfg.MODEL.META_ARCHITECTURE} on street"
    text = "Seconds to quantize or to train on; what arms share counts in the first that needs it."
    return describe_study("python tools/quickstart.py", title, [text], [found])


def summary(cfg: CfgNode, results: list[ArmResult]) -> dict:
    """What summary.json holds; a metric without a value is null."""
    return {
        "model": cfg.MODEL.META_ARCHITECTURE,
        "weights": Path(cfg.MODEL.WEIGHTS).name,
        "critical_set": cfg.CRITICAL.TARGET,
        "average_bits": cfg.ALLOCATION.AVERAGE_BITS,
        "arms": [
            {
                "name": result.name,
                "bytes": result.size_bytes,
                "seconds": round(result.seconds, 1),
                "metrics": {k: None if np.isnan(v) else round(v, 4) for k, v in result.metrics.items()},
                "bits": dict(result.allocation.bits) if result.allocation else None,
            }
            for result in results
        ],
    }


def draw_detections(cfg: CfgNode, runs: list[str], path: Path) -> None:
    """Draw the test images with the most critical objects, as every arm but two sees them."""
    arms = [arm for arm in find_arms(runs) if arm.name not in (Arm.UNIFORM, Arm.FISHER_OVERALL)]
    category_set = target_set(arms, cfg.CRITICAL.TARGET)
    samples = read_samples(arms, category_set, PICTURES)
    picture = compare_detections(
        [sample.image for sample in samples],
        [sample.objects for sample in samples],
        {arm.name: [sample.detections[arm.name] for sample in samples] for arm in arms},
        category_set,
        [category["name"] for category in arms[0].evaluation["categories"]],
    )
    write_atomically(path, lambda file: file.write(cv2.imencode(".png", picture)[1].tobytes()))


def step(text: str) -> None:
    """Say on the terminal what comes next."""
    print(f"> {text}", file=sys.__stdout__, flush=True)


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send what the libraries print to a file; progress bars stay, since they use stderr."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, contextlib.redirect_stdout(file):
        yield


if __name__ == "__main__":
    main()
