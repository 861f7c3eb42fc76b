"""The tables of benchmarks/qat_grid.py: means and spreads over seeds, and paired differences."""

import json
import shlex
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from fisher_detr.engine import environment
from fisher_detr.evaluation import BootstrapAP, average, bootstrap_ap, complete_ground_truth

RESAMPLES = 1000
BASELINE = "qat"
# Of every run: what the column says, and where the number is.
COLUMNS = {
    "AP": lambda r: r["metrics"]["AP"],
    "APcrit": lambda r: r["metrics"][f"APcrit_{r['target']}"],
    "APcrit of the others": lambda r: _mean(r["metrics"][f"APcrit_{name}"] for name in r["others"]),
    "L_F on train": lambda r: r["train"]["loss"],
    "gap of L_F": lambda r: r["evaluated"]["loss"] - r["train"]["loss"],
    "tr I_F on train": lambda r: r["train"]["trace"],
    "tr I_F evaluated": lambda r: r["evaluated"]["trace"],
    "minutes": lambda r: r["minutes"],
}


def describe(found: dict[str, dict[str, dict[int, dict]]], split: str, arguments: list[str]) -> dict:
    """The results file, from results by cell, arm and seed."""
    tables = []
    for cell, arms in found.items():
        tables.append(_means(cell, arms, split))
        if BASELINE in arms and len(arms) > 1:
            tables.append(_differences(cell, arms, split))
    return {
        "title": f"Quantization-aware training with the Fisher-trace penalty, street {split}",
        "command": "python -m benchmarks.qat_grid " + shlex.join(arguments),
        "text": [
            "Mean and standard deviation over seeds. Gap: critical loss of an evaluated image less that of a "
            "training image (256 each). Trace: of the critical Fisher information at the quantized weights."
        ],
        "environment": environment(),
        "tables": tables,
    }


def _means(cell: str, arms: dict[str, dict[int, dict]], split: str) -> dict:
    rows = [
        [arm, len(runs), *(_spread([of(run) for run in runs.values()]) for of in COLUMNS.values())]
        for arm, runs in arms.items()
    ]
    return {"caption": f"{cell}, street {split}", "columns": ["arm", "seeds", *COLUMNS], "rows": rows}


def _differences(cell: str, arms: dict[str, dict[int, dict]], split: str) -> dict:
    rows = []
    for arm, runs in arms.items():
        if arm == BASELINE:
            continue
        seeds = sorted(arms[BASELINE].keys() & runs.keys()) or sorted(arms[BASELINE])
        pairs = [_gain(runs.get(seed, next(iter(runs.values()))), arms[BASELINE][seed]) for seed in seeds]
        whole = average(pairs)
        low, high = whole.interval()
        points = [pair.point for pair in pairs]
        rows.append(
            [arm, len(pairs), f"{whole.point:+.2f} [{low:+.2f}, {high:+.2f}]", f"{np.std(points):.2f}"]
            + [" ".join(f"{point:+.2f}" for point in points)]
        )
    return {
        "caption": f"{cell}: APcrit over {BASELINE} of the same seed (mean over seeds, 95 % bootstrap "
        f"interval over images, {RESAMPLES} resamples), street {split}",
        "columns": ["arm", "pairs", "difference", "deviation over seeds", "by seed"],
        "rows": rows,
    }


def _gain(run: dict, baseline: dict) -> BootstrapAP:
    ground_truth = complete_ground_truth(COCO(run["annotations"]))
    detections = {
        name: json.loads(Path(of["detections"]).read_text())
        for name, of in (("run", run), ("baseline", baseline))
    }
    found = bootstrap_ap(ground_truth, detections, run["category_ids"], RESAMPLES)
    return found["run"] - found["baseline"]


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{np.mean(known):.2f} ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else f"{known[0]:.2f}"
