#!/usr/bin/env python
"""Which way to spend the same bytes keeps the critical categories: all arms, widths and critical sets.

    benchmarks/bench_arms.py --config-file configs/street/detr_small_ptq.yaml --widths 3 4 5 \
        --output benchmarks/results/street_arms.json DATASETS.TEST "('street_test',)"

Every critical set is the target of `fisher_critical` once. Differences between arms come with bootstrap
intervals over images (paired, 95 %).
"""

import argparse
import dataclasses
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from pycocotools.coco import COCO

from fisher_detr.critical import resolve_category_sets
from fisher_detr.engine import (
    ArmResult,
    PostTrainingQuantizer,
    environment,
    evaluate_arms,
    evaluate_full_precision,
    load_config,
    load_float,
)
from fisher_detr.evaluation import BootstrapAP, average, bootstrap_ap, complete_ground_truth
from fisher_detr.files import write_json
from fisher_detr.structures import Arm, CategorySet

logger = logging.getLogger("fisher_detr.bench_arms")
OVERALL_ARMS = (Arm.UNIFORM, Arm.FISHER_OVERALL)


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that was measured.

    Attributes:
        sets: the critical sets.
        full: full precision.
        overall: by width, the arms that know no critical set.
        critical: by width and set name, fisher_critical for that set.
    """

    sets: list[CategorySet]
    full: ArmResult
    overall: dict[float, list[ArmResult]]
    critical: dict[float, dict[str, ArmResult]]


def main() -> None:
    """Parse the command line, measure, write the results file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--widths", type=float, nargs="+", default=[3, 4, 5])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", required=True, help="results file (JSON)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args()
    setup_logger(name="fisher_detr")
    setup_logger()
    cfg = load_config(args.config_file, args.opts)
    start = time.perf_counter()
    study = measure(cfg, args.widths)
    tables = [arms_table(study), *sets_tables(cfg, study, args.resamples), *targets_tables(study)]
    write_json(args.output, describe(cfg, study, tables, time.perf_counter() - start))
    print(json.dumps(tables, indent=1))


def measure(cfg: CfgNode, widths: Sequence[float]) -> Study:
    """Quantize and evaluate every arm, width and critical set."""
    sets = resolve_category_sets(cfg.CRITICAL.SETS, MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))
    full = evaluate_full_precision(cfg, load_float(cfg))
    quantizer = _quantizer(cfg, "")
    overall = {width: evaluate_arms(cfg, quantizer, OVERALL_ARMS, width) for width in widths}
    critical: dict[float, dict[str, ArmResult]] = {width: {} for width in widths}
    for category_set in sets:
        quantizer = _quantizer(cfg, category_set.name)
        for width in widths:
            (critical[width][category_set.name],) = evaluate_arms(
                cfg, quantizer, [Arm.FISHER_CRITICAL], width
            )
    return Study(sets, full, overall, critical)


def arms_table(study: Study) -> dict:
    """AP and mean APcrit of every arm and width; fisher_critical is averaged over its targets."""
    names = [category_set.name for category_set in study.sets]

    def mean_critical(result: ArmResult) -> float:
        return float(np.mean([result.metrics[f"APcrit_{name}"] for name in names]))

    full = study.full
    rows = [["full precision", "32", full.metrics["AP"], mean_critical(full), full.size_bytes]]
    for width, results in study.overall.items():
        for result in results:
            rows.append(
                [result.name, f"{width:g}", result.metrics["AP"], mean_critical(result), result.size_bytes]
            )
        targets = study.critical[width]
        rows.append(
            [
                "fisher_critical",
                f"{width:g}",
                float(np.mean([result.metrics["AP"] for result in targets.values()])),
                float(np.mean([targets[name].metrics[f"APcrit_{name}"] for name in names])),
                max(result.size_bytes for result in targets.values()),
            ]
        )
    return {
        "caption": f"AP and APcrit (mean over the sets {', '.join(names)}); fisher_critical aims at one set "
        "at a time, its APcrit is that set's",
        "columns": ["arm", "bits", "AP", "APcrit", "bytes"],
        "rows": rows,
    }


def sets_tables(cfg: CfgNode, study: Study, resamples: int) -> list[dict]:
    """For every width, APcrit by set and arm, and the gains with their intervals."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    ground_truth = complete_ground_truth(COCO(metadata.json_file))
    by_index = {index: id_ for id_, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    tables = []
    for width, results in study.overall.items():
        estimates = {}
        for category_set in study.sets:
            arms = {result.name: result for result in results}
            arms["fisher_critical"] = study.critical[width][category_set.name]
            detections = {name: _detections(arm, category_set) for name, arm in arms.items()}
            ids = [by_index[index] for index in category_set.indices]
            estimates[category_set.name] = bootstrap_ap(ground_truth, detections, ids, resamples)
        tables.append(_gains_table(width, study, estimates, resamples))
    return tables


def targets_tables(study: Study) -> list[dict]:
    """For every width, APcrit of every set under every model: is the gain of a target its own?"""
    names = [category_set.name for category_set in study.sets]
    tables = []
    for width, results in study.overall.items():
        models = {result.name: result for result in results}
        models |= {f"critical: {name}": result for name, result in study.critical[width].items()}
        rows = [
            [name, result.metrics["AP"], *(result.metrics[f"APcrit_{of}"] for of in names)]
            for name, result in models.items()
        ]
        tables.append(
            {
                "caption": f"APcrit of every set (columns) by the set aimed at (rows), {width:g} bits",
                "columns": ["model", "AP", *names],
                "rows": rows,
            }
        )
    return tables


def _gains_table(
    width: float, study: Study, estimates: dict[str, dict[str, BootstrapAP]], resamples: int
) -> dict:
    rows = []
    for name, arms in estimates.items():
        rows.append(_gains_row(name, study.full.metrics[f"APcrit_{name}"], arms))
    arms = next(iter(estimates.values()))
    everything = {arm: average([of_set[arm] for of_set in estimates.values()]) for arm in arms}
    full = float(np.mean([study.full.metrics[f"APcrit_{name}"] for name in estimates]))
    rows.append(_gains_row("mean", full, everything))
    return {
        "caption": f"APcrit by critical set at the bytes of uniform {width:g} bits, and what fisher_critical "
        f"gains (95 % bootstrap interval over images, {resamples} resamples)",
        "columns": [
            "set",
            "full",
            "uniform",
            "overall",
            "critical",
            "gain over uniform",
            "gain over overall",
        ],
        "rows": rows,
    }


def _gains_row(name: str, full: float, arms: dict[str, BootstrapAP]) -> list:
    critical = arms["fisher_critical"]
    gains = [_gain(critical - arms[str(arm)]) for arm in OVERALL_ARMS]
    return [name, full, *(arms[str(arm)].point for arm in OVERALL_ARMS), critical.point, *gains]


def _gain(difference: BootstrapAP) -> str:
    low, high = difference.interval()
    return f"{difference.point:+.2f} [{low:+.2f}, {high:+.2f}]"


def _detections(result: ArmResult, category_set: CategorySet) -> list[dict]:
    return json.loads(Path(result.folder, f"critical_{category_set.name}_results.json").read_text())


def _quantizer(cfg: CfgNode, target: str) -> PostTrainingQuantizer:
    cfg = cfg.clone()
    cfg.CRITICAL.TARGET = target
    return PostTrainingQuantizer.from_config(cfg, load_float(cfg))


def describe(cfg: CfgNode, study: Study, tables: list[dict], seconds: float) -> dict:
    """The results file: what was measured, how, where."""
    command = "python benchmarks/bench_arms.py " + shlex.join(sys.argv[1:])
    return {
        "title": f"Arms at equal bytes on {cfg.DATASETS.TEST[0]}",
        "command": command,
        "text": [
            f"Post-training quantization of {os.path.basename(cfg.MODEL.WEIGHTS)}: scales by "
            f"{cfg.QUANT.WEIGHT.SCALE}, sensitivity {cfg.ALLOCATION.SENSITIVITY}, activations "
            f"{cfg.QUANT.ACTIVATION.BITS} bits, {cfg.QUANT.CALIBRATION.NUM_IMAGES} calibration images of "
            f"{', '.join(cfg.DATASETS.TRAIN)}. {len(study.sets)} critical sets; {seconds:.0f} seconds.",
        ],
        "environment": environment(),
        "tables": tables,
    }


if __name__ == "__main__":
    main()
