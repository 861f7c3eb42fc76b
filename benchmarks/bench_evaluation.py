#!/usr/bin/env python
"""Time of the critical evaluator beside one plain pycocotools evaluation.

    python -m benchmarks.bench_evaluation --output benchmarks/results/evaluation_cpu.json

Random images of 80 categories with 7 objects, and 100 detections of each. The evaluator computes overall
and filtered AP, AP of every category, and APcrit of 12 disjoint sets; the plain evaluation only the first.
Reading of the ground truth is left out of both. The three take turns, in two cases: "shared", where the 100
detections are those of all sets together, and "own", where each set has 75 of its own. The second is what
DETR gives: its queries are ranked anew for every set, and most of the 100 best pairs are critical ones,
however low they score.
"""

import argparse
import contextlib
import copy
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detectron2.data.datasets import register_coco_instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from fisher_detr.evaluation import CriticalCategoryEvaluator
from fisher_detr.evaluation.critical_evaluator import CriticalDetections
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.structures import CategorySet

CATEGORIES, SETS, OBJECTS, DETECTIONS = 80, 12, 7, 100
CASES = {"shared": 0, "own": 75}  # detections that each set has of its own
PART = 5  # of the images, one of so many is evaluated where there are nine times as many detections
SIDE = 640
PEERS = ("pycocotools", "faster-coco-eval")
COLUMNS = ["detections", "evaluation", "seconds", "times plain"]
Timed = Callable[[], dict[str, float]]


def main() -> None:
    """Parse the command line, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="results file (JSON)")
    args = parser.parse_args()
    rows, difference = measure(args.images, args.repeats)
    results = describe(args, rows, difference)
    print(tabulate(rows, headers=COLUMNS, floatfmt=("", "", ".1f", ".2f")))
    print(results["text"][-1])
    if args.output:
        write_json(args.output, results)


def describe(args: argparse.Namespace, rows: list[list], difference: float) -> dict:
    """What the results file holds."""
    text = [
        f"{CATEGORIES} categories, {DETECTIONS} detections of an image, {SETS} disjoint critical sets; "
        f"medians of {args.repeats} turns. Shared: {args.images:,} images, detections of a set are those of "
        f"the overall ones that are of its categories. Own: {args.images // PART:,} images, each set has "
        f"{CASES['own']} detections of its own, as DETR gives. Aimed for, times the plain evaluation: 2.2 on "
        "pycocotools, 0.5 compiled.",
        f"Largest difference of a metric to pycocotools: {difference:.1g} points.",
    ]
    table = {"caption": "Seconds of an evaluation", "columns": COLUMNS, "rows": rows}
    return describe_study(
        "python -m benchmarks.bench_evaluation", "Critical evaluator", text, [table], peers=PEERS
    )


def measure(num_images: int, repeats: int) -> tuple[list[list], float]:
    """Rows of the table, and how far the numbers of the three are apart."""
    rows, differences = [], []
    with tempfile.TemporaryDirectory() as folder:
        for case, own in CASES.items():
            content = ground_truth(np.random.default_rng(0), num_images // PART if own else num_images)
            path = Path(folder) / f"{case}.json"
            write_json(path, content)
            register_coco_instances(f"bench_{case}", {}, str(path), folder)
            seconds, metrics = take_turns(ways(path, predictions(content, own)), repeats)
            base = seconds["pycocotools, plain"]
            rows += [[case, name, found, found / base] for name, found in seconds.items()]
            differences.append(largest_difference(metrics))
    return rows, max(differences)


def ways(path: Path, detections: list[dict]) -> dict[str, Timed]:
    """What is timed."""
    return {
        "pycocotools, plain": lambda: plain(path, detections),
        "evaluator on pycocotools": evaluator(f"bench_{path.stem}", detections, is_fast=False),
        "evaluator on faster-coco-eval": evaluator(f"bench_{path.stem}", detections, is_fast=True),
    }


def take_turns(timed: dict[str, Timed], repeats: int) -> tuple[dict[str, float], dict[str, dict]]:
    """Median of the seconds over the turns, and the metrics of the last one."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    metrics = {}
    for _ in range(repeats):
        for name, way in timed.items():
            metrics[name] = way()
            seconds[name].append(metrics[name].pop("seconds"))
    return {name: statistics.median(found) for name, found in seconds.items()}, metrics


def plain(path: Path, detections: list[dict]) -> dict[str, float]:
    """One evaluation by pycocotools, of the overall detections."""
    results = [dict(item) for prediction in detections for item in prediction["instances"]]  # it changes them
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        start = time.perf_counter()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    found = {name: 100 * float(value) for name, value in zip(names, evaluation.stats[:6], strict=True)}
    return found | {"seconds": time.perf_counter() - start}


def evaluator(data_set: str, detections: list[dict], is_fast: bool) -> Timed:
    """Everything that the critical evaluator computes of gathered predictions."""
    parts = np.array_split(np.arange(CATEGORIES), SETS)
    sets = [CategorySet(f"set{i}", tuple(part.tolist()), CATEGORIES) for i, part in enumerate(parts)]
    made = CriticalCategoryEvaluator(data_set, sets, distributed=False, use_fast_impl=is_fast)

    def evaluate() -> dict[str, float]:
        made.reset()
        made._predictions = copy.deepcopy(detections)
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            found = dict(made.evaluate()["bbox"])
        return found | {"seconds": time.perf_counter() - start}

    return evaluate


def largest_difference(metrics: dict[str, dict]) -> float:
    """Over all metrics that two of the three have, in points; NaN equals NaN."""
    plain_metrics, slow, fast = metrics.values()
    pairs = [(plain_metrics[name], slow[name]) for name in plain_metrics]
    pairs += [(slow[name], fast[name]) for name in slow]
    return float(np.nanmax([abs(a - b) for a, b in pairs]))


def ground_truth(rng: np.random.Generator, num_images: int) -> dict:
    """Random objects, one of fifty a crowd."""
    annotations = []
    for image in range(1, num_images + 1):
        for box in random_boxes(rng, OBJECTS):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(CATEGORIES)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.02),
                }
            )
    sizes = {"width": SIDE, "height": SIDE}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **sizes} for i in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"category {i}"} for i in range(CATEGORIES)],
    }


def random_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Boxes xywh of all of COCO's sizes."""
    sides = np.exp(rng.uniform(np.log(12), np.log(300), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return np.concatenate([corners, sides], axis=1).round(2).tolist()


def predictions(content: dict, own: int) -> list[dict]:
    """What the evaluator has gathered of a detector that finds about half of the objects."""
    rng = np.random.default_rng(1)
    objects: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    parts = np.array_split(np.arange(CATEGORIES), SETS)
    return [prediction(rng, image, found, parts, own) for image, found in objects.items()]


def prediction(
    rng: np.random.Generator, image: int, objects: list[dict], parts: list[np.ndarray], own: int
) -> dict:
    """Detections of one image: overall, and those of each set under the transform."""
    every = np.arange(CATEGORIES)
    found = [detection(rng, image, objects[i % len(objects)], every) for i in range(DETECTIONS)]
    critical = {}
    for number, part in enumerate(parts):
        of_set = [item for item in found if item["category_id"] in part]
        if own:
            of_set = [detection(rng, image, objects[i % len(objects)], part) for i in range(own)]
        critical[f"set{number}"] = CriticalDetections(
            np.array([item["bbox"] for item in of_set]).reshape(-1, 4),
            np.array([item["score"] for item in of_set]),
            np.array([item["category_id"] for item in of_set], dtype=int),
        )
    return {"image_id": image, "instances": found, "critical": critical}


def detection(rng: np.random.Generator, image: int, target: dict, categories: np.ndarray) -> dict:
    """Near an object; of its category half of the time, where that is one of those asked for."""
    box = np.array(target["bbox"]) * np.exp(rng.normal(0, 0.1, 4))
    is_right = rng.random() < 0.5 and target["category_id"] in categories
    return {
        "image_id": image,
        "category_id": target["category_id"] if is_right else int(rng.choice(categories)),
        "bbox": box.round(2).tolist(),
        "score": float(rng.random()),
    }


if __name__ == "__main__":
    main()
