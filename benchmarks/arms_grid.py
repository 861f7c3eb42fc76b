#!/usr/bin/env python
"""Which way to spend the same bytes keeps the critical categories: all arms, widths and critical sets.

    benchmarks/arms_grid.py --config-file configs/street/detr_small_ptq.yaml --widths 3 4 5 \
        --ablation-widths 4 --output benchmarks/results/street_arms.json DATASETS.TEST "('street_test',)"

Every critical set is the target of `fisher_critical` and `reweighted` once. Differences between arms come
with bootstrap intervals over images (paired, 95 %). Results are kept in OUTPUT_DIR: a study that was cut off
goes on, and one that takes all takes over what others measured that took some of the arms, widths or targets.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import logging
import os
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
    KeptResults,
    PostTrainingQuantizer,
    evaluate_arms,
    evaluate_full_precision,
    evaluate_nearest,
    evaluate_plan,
    load_config,
    load_float,
)
from fisher_detr.evaluation import BootstrapAP, average, bootstrap_ap, complete_ground_truth
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.structures import NEAREST, Arm, CategorySet

logger = logging.getLogger("fisher_detr.arms_grid")
ARMS = (Arm.UNIFORM, Arm.HAWQ, Arm.FISHER_OVERALL, Arm.REWEIGHTED, Arm.FISHER_CRITICAL)
AIMED = (Arm.REWEIGHTED, Arm.FISHER_CRITICAL)  # at one critical set at a time
Aimed = dict[float, dict[str, ArmResult]]  # by width and set name


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that was measured.

    Attributes:
        sets: the critical sets.
        full: full precision.
        overall: by width, what knows no critical set: at whole widths first what is had without Fisher
            information, then the arms.
        aimed: by arm, those that aim at a set.
        scales_alone: uniform widths with the scales of fisher_critical.
    """

    sets: list[CategorySet]
    full: ArmResult
    overall: dict[float, list[ArmResult]]
    aimed: dict[Arm, Aimed]
    scales_alone: Aimed

    def arms_for(self, width: float, name: str) -> dict[str, ArmResult]:
        """All arms at a width, those that aim at a set at this one; by name of the arm."""
        results = {result.name: result for result in self.overall[width]}
        results |= {str(arm): of_arm[width][name] for arm, of_arm in self.aimed.items()}
        return {str(arm): results[arm] for arm in (NEAREST, *ARMS) if arm in results}


def main() -> None:
    """Parse the command line, measure, write the results file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--widths", type=float, nargs="+", default=[3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--ablation-widths", type=float, nargs="*", default=[], help="also: scales alone")
    parser.add_argument("--targets", nargs="+", help="sets to aim at (default: all of CRITICAL.SETS)")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", required=True, help="results file (JSON)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args()
    setup_logger(name="fisher_detr")
    setup_logger()
    cfg = load_config(args.config_file, args.opts)
    start = time.perf_counter()
    known = [chosen.name for chosen in _sets(cfg)]
    if unknown := sorted(set(args.targets or ()) - set(known)):
        parser.error(f"--targets {' '.join(unknown)}: expected some of {', '.join(known)}")
    arms = [Arm(arm) for arm in ARMS if arm in args.arms]
    study = measure(cfg, arms, args.widths, args.ablation_widths, args.targets)
    tables = [arms_table(study), *sets_tables(cfg, study, args.resamples), *targets_tables(study)]
    write_json(args.output, describe(cfg, study, tables, time.perf_counter() - start))
    print(json.dumps(tables, indent=1))


def measure(
    cfg: CfgNode,
    arms: Sequence[Arm],
    widths: Sequence[float],
    ablation_widths: Sequence[float],
    targets: Sequence[str] | None = None,
) -> Study:
    """Quantize and evaluate every arm, width and critical set; what was measured before is taken."""
    kept = KeptResults(cfg)
    sets = [chosen for chosen in _sets(cfg) if targets is None or chosen.name in targets]
    full = kept.get("full_precision", lambda: evaluate_full_precision(cfg, load_float(cfg)))
    overall, aimed = {width: [] for width in widths}, {}
    scales_alone: Aimed = {width: {} for width in ablation_widths}

    @functools.lru_cache(maxsize=1)  # its estimates are made when the first result is missing
    def quantizer(index: int | None) -> PostTrainingQuantizer:
        return _quantizer(cfg, None if index is None else sets[index])

    def result(arm: Arm, width: float, index: int | None = None) -> ArmResult:
        target = "" if index is None else f"_{sets[index].name}"
        return kept.get(
            f"{arm}{target}_{width:g}", lambda: evaluate_arms(cfg, quantizer(index), [arm], width)[0]
        )

    def with_scales(index: int, width: float) -> ArmResult:
        plan = quantizer(index).allocate(Arm.UNIFORM, width)
        return evaluate_plan(cfg, quantizer(index), plan, Arm.FISHER_CRITICAL, "uniform_critical_scales")

    for width in filter(float.is_integer, widths):
        nearest = functools.partial(evaluate_nearest, cfg, load_float(cfg), width)
        overall[width].append(kept.get(f"nearest_{width:g}", nearest))
    for arm, width in itertools.product([arm for arm in arms if arm not in AIMED], widths):
        overall[width].append(result(arm, width))
    for (index, chosen), arm in itertools.product(enumerate(sets), [arm for arm in arms if arm in AIMED]):
        for width in widths:
            of_width = aimed.setdefault(arm, {}).setdefault(width, {})
            of_width[chosen.name] = result(arm, width, index)
    for (index, chosen), width in itertools.product(enumerate(sets), ablation_widths):
        scales_alone[width][chosen.name] = kept.get(
            f"scales_{chosen.name}_{width:g}", lambda index=index, width=width: with_scales(index, width)
        )
    return Study(sets, full, overall, aimed, scales_alone)


def _sets(cfg: CfgNode) -> list[CategorySet]:
    return list(resolve_category_sets(cfg.CRITICAL.SETS, MetadataCatalog.get(cfg.DATASETS.TRAIN[0])))


def arms_table(study: Study) -> dict:
    """AP and mean APcrit of every arm and width; what aims at one set is averaged over the sets."""
    full = study.full
    rows = [["full precision", "32", full.metrics["AP"], _mean_critical(study, full), full.size_bytes]]
    for width, results in study.overall.items():
        rows += [
            [
                result.name,
                f"{width:g}",
                result.metrics["AP"],
                _mean_critical(study, result),
                result.size_bytes,
            ]
            for result in results
        ]
        if width in study.scales_alone:
            rows.append(_targeted_row("uniform, critical scales", width, study.scales_alone[width]))
        rows += [_targeted_row(str(arm), width, of_arm[width]) for arm, of_arm in study.aimed.items()]
    names = ", ".join(category_set.name for category_set in study.sets)
    return {
        "caption": f"AP and APcrit (mean over the sets {names}). fisher_critical and reweighted aim at one "
        "set at a time, their APcrit is that set's; 'critical scales' has its scales and uniform widths",
        "columns": ["arm", "bits", "AP", "APcrit", "bytes"],
        "rows": [[_cell(cell) for cell in row] for row in rows],
    }


def _mean_critical(study: Study, result: ArmResult) -> float:
    return float(np.mean([result.metrics[f"APcrit_{category_set.name}"] for category_set in study.sets]))


def _targeted_row(title: str, width: float, targets: dict[str, ArmResult]) -> list:
    return [
        title,
        f"{width:g}",
        float(np.mean([result.metrics["AP"] for result in targets.values()])),
        float(np.mean([result.metrics[f"APcrit_{name}"] for name, result in targets.items()])),
        max(result.size_bytes for result in targets.values()),
    ]


def _cell(value: object) -> object:
    """A set without objects has no AP, and JSON no NaN."""
    return "none" if isinstance(value, float) and np.isnan(value) else value


def sets_tables(cfg: CfgNode, study: Study, resamples: int) -> list[dict]:
    """For every width, APcrit by set and arm, and the gains with their intervals."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    ground_truth = complete_ground_truth(COCO(metadata.json_file))
    by_index = {index: id_ for id_, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    tables = []
    for width in study.overall:
        estimates = {}
        for category_set in study.sets:
            arms = study.arms_for(width, category_set.name)
            detections = {name: detections_of(arm, category_set) for name, arm in arms.items()}
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
        models |= {
            f"{arm.removeprefix('fisher_')}: {name}": result
            for arm, of_arm in study.aimed.items()
            for name, result in of_arm[width].items()
        }
        rows = [
            [name, *map(_cell, [result.metrics["AP"], *(result.metrics[f"APcrit_{of}"] for of in names)])]
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
    full_points = {name: study.full.metrics[f"APcrit_{name}"] for name in estimates}
    first = next(iter(next(iter(estimates.values()))))  # of the arms: uniform, unless it is left out
    lost = {name: full_points[name] - arms[first].point for name, arms in estimates.items()}
    hardest = max(lost, key=lambda name: np.nan_to_num(lost[name], nan=-np.inf))
    rows = [
        _gains_row(f"{name} (hit hardest)" if name == hardest else name, full_points[name], arms)
        for name, arms in estimates.items()
    ]
    arms = next(iter(estimates.values()))
    everything = {arm: average([of_set[arm] for of_set in estimates.values()]) for arm in arms}
    full = float(np.mean([*full_points.values()]))
    rows.append(_gains_row("mean", full, everything))
    return {
        "caption": f"APcrit by critical set at the bytes of uniform {width:g} bits, and what {_last(arms)} "
        f"gains (95 % bootstrap interval over images, {resamples} resamples); hit hardest is the set that "
        f"loses most under {first}",
        "columns": ["set", "full", *map(_short, arms), *(f"gain over {_short(arm)}" for arm in [*arms][:-1])],
        "rows": rows,
    }


def _gains_row(name: str, full: float, arms: dict[str, BootstrapAP]) -> list:
    *others, best = arms.values()
    points = [full, *(arm.point for arm in arms.values())]
    return [name, *map(_cell, points), *(_gain(best - other) for other in others)]


def _last(arms: dict[str, BootstrapAP]) -> str:
    return list(arms)[-1]


def _short(arm: str) -> str:
    return arm.removeprefix("fisher_")


def _gain(difference: BootstrapAP) -> str:
    low, high = difference.interval()
    return f"{difference.point:+.2f} [{low:+.2f}, {high:+.2f}]"


def detections_of(result: ArmResult, category_set: CategorySet) -> list[dict]:
    """COCO's result dictionaries of a critical set, which the evaluation has left."""
    return json.loads(Path(result.folder, f"critical_{category_set.name}_results.json").read_text())


def _quantizer(cfg: CfgNode, critical: CategorySet | None = None) -> PostTrainingQuantizer:
    cfg = cfg.clone()
    cfg.CRITICAL.TARGET = ""
    return PostTrainingQuantizer.from_config(cfg, load_float(cfg), critical)


def describe(cfg: CfgNode, study: Study, tables: list[dict], seconds: float) -> dict:
    """The results file: what was measured, how, where."""
    layers = "all decoder layers" if cfg.ALLOCATION.AUX_LOSS else "the last decoder layer"
    title = (
        f"Arms at equal bytes, {cfg.MODEL.META_ARCHITECTURE} on {cfg.DATASETS.TEST[0]}: "
        f"{cfg.QUANT.WEIGHT.SCALE} scales, rounding {cfg.QUANT.WEIGHT.ROUNDING}, "
        f"{cfg.ALLOCATION.SENSITIVITY} sensitivity, losses of {layers}, box "
        f"losses of {cfg.CRITICAL.BOX_LOSS} objects"
    )
    text = (
        f"Post-training quantization of {os.path.basename(cfg.MODEL.WEIGHTS)}: scales by "
        f"{cfg.QUANT.WEIGHT.SCALE}, rounding {cfg.QUANT.WEIGHT.ROUNDING}, "
        f"sensitivity {cfg.ALLOCATION.SENSITIVITY} ({cfg.ALLOCATION.COMBINE}), "
        f"losses of {layers}, box losses of {cfg.CRITICAL.BOX_LOSS} objects in the critical objective, "
        f"activations of {cfg.QUANT.ACTIVATION.BITS} bits, {cfg.QUANT.CALIBRATION.NUM_IMAGES} calibration "
        f"images of {', '.join(cfg.DATASETS.TRAIN)}. {len(study.sets)} critical sets; "
        f"{seconds:.0f} seconds, without what was known before."
    )
    return describe_study("python benchmarks/arms_grid.py", title, [text], tables)


if __name__ == "__main__":
    main()
