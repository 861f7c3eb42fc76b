"""The tables of benchmarks/qat_grid.py: means and spreads over seeds, and paired differences."""

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.qat_measure import RESAMPLES, unpacked
from fisher_detr.evaluation import BootstrapAP, average
from fisher_detr.model_zoo import describe_study

BASELINE, PROPOSED = "qat", "qat_critical"
RIVALS = ("qat_overall", "qat_reweighted")
# Of every run: what the column says, and where the number is.
COLUMNS = {
    "AP": lambda r: r["metrics"]["AP"],
    "APcrit": lambda r: r["metrics"][f"APcrit_{r['target']}"],
    "APcrit of the others": lambda r: _mean(r["metrics"][f"APcrit_{name}"] for name in r["others"]),
    "L_F on train": lambda r: r["train"]["loss"],
    "gap of L_F": lambda r: r["evaluated"]["loss"] - r["train"]["loss"],
    "tr I_F on train": lambda r: r["train"]["trace"],
    "tr I_F evaluated": lambda r: r["evaluated"]["trace"],
    "of it in a tenth": lambda r: r["evaluated"]["top_tenth"],
    "rank correlation": lambda r: r["evaluated"]["rank_correlation"],
    "minutes": lambda r: r["minutes"],
}
PAIRED = ("AP", "APcrit of the others", "gap of L_F", "tr I_F on train", "tr I_F evaluated")
# Results of the seeds of an arm.
Runs = dict[int, dict]


def describe(found: dict[str, dict[str, Runs]], split: str) -> dict:
    """The results file, from results by cell, arm and seed."""
    tables = []
    for cell, arms in found.items():
        known = {arm: runs for arm, runs in arms.items() if runs}
        tables.append(_means(cell, known, split))
        rows = [_difference(known, arm, other) for arm, other in _comparisons(known)]
        if rows:
            tables.append(_differences(cell, rows, split))
    text = (
        "Mean and standard deviation over seeds. Gap: critical loss of an evaluated image less that of a "
        "training image (256 each). Trace: of the critical Fisher information at the weights that are "
        "multiplied; then the part of it that the tenth of the images with the largest gradients has, and "
        "the rank correlation of an image's squared gradient with its loss."
    )
    title = f"Quantization-aware training with the Fisher-trace penalty, street {split}"
    return describe_study("python -m benchmarks.qat_grid", title, [text, *starts(found)], tables)


def starts(found: dict[str, dict[str, Runs]]) -> list[str]:
    """Cells that did not begin with one model: machines add in orders of their own, so digests may differ."""
    digests = {
        cell: {run["start"] for runs in arms.values() for run in runs.values()}
        for cell, arms in found.items()
    }
    return [
        f"The runs of {cell} began with {len(of_cell)} quantized models, made by the same settings."
        for cell, of_cell in digests.items()
        if len(of_cell) > 1
    ]


def _means(cell: str, arms: dict[str, Runs], split: str) -> dict:
    rows = [
        [arm, len(runs), *(_spread([of(run) for run in runs.values()]) for of in COLUMNS.values())]
        for arm, runs in arms.items()
    ]
    return {"caption": f"{cell}, street {split}", "columns": ["arm", "seeds", *COLUMNS], "rows": rows}


def _comparisons(arms: dict[str, Runs]) -> list[tuple[str, str]]:
    """Every arm with plain training, and the penalty that is proposed with its rivals."""
    pairs = [(arm, BASELINE) for arm in arms if arm != BASELINE] + [(PROPOSED, rival) for rival in RIVALS]
    return [(arm, other) for arm, other in pairs if arm in arms and other in arms]


def _differences(cell: str, rows: list[list], split: str) -> dict:
    return {
        "caption": f"{cell}: differences of the same seed, street {split} (APcrit: 95 % bootstrap interval "
        f"over images and seeds, {RESAMPLES} resamples; others: mean and standard deviation over seeds)",
        "columns": ["arm", "less", "pairs", "APcrit", "APcrit by seed", *PAIRED],
        "rows": rows,
    }


def _difference(arms: dict[str, Runs], arm: str, other: str) -> list:
    pairs = paired(arms[arm], arms[other])
    gains = [_gain(run, baseline) for run, baseline in pairs]
    low, high = over_seeds(gains).interval()
    row = [arm, other, len(pairs), f"{average(gains).point:+.2f} [{low:+.2f}, {high:+.2f}]"]
    row.append(" ".join(f"{gain.point:+.2f}" for gain in gains))
    return row + [_spread([_less(COLUMNS[name], *pair) for pair in pairs], "+") for name in PAIRED]


def paired(runs: Runs, others: Runs) -> list[tuple[dict, dict]]:
    """Results of the same seed; what trains nothing has one result, which meets every seed of the other."""
    if common := sorted(runs.keys() & others.keys()):
        return [(runs[seed], others[seed]) for seed in common]
    return [(run, other) for run in runs.values() for other in others.values()]


def over_seeds(gains: Sequence[BootstrapAP]) -> BootstrapAP:
    """Mean over seeds, where each resample of the images draws seeds with replacement as well."""
    mean = average(gains)
    samples = np.stack([gain.samples for gain in gains])  # [S, R]
    drawn = np.random.default_rng(0).integers(len(gains), size=samples.shape)
    return BootstrapAP(mean.point, np.take_along_axis(samples, drawn, axis=0).mean(axis=0), mean.draw)


def _gain(run: dict, baseline: dict) -> BootstrapAP:
    return unpacked(run["resampled"]) - unpacked(baseline["resampled"])


def _less(of: Callable[[dict], float | None], run: dict, other: dict) -> float | None:
    values = of(run), of(other)
    return None if None in values else values[0] - values[1]


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: list[float | None], sign: str = "") -> str:
    """Mean and standard deviation of a sample."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    deviation = f" ± {np.std(known, ddof=1):.2f}" if len(known) > 1 else ""
    return f"{np.mean(known):{sign}.2f}{deviation}"
