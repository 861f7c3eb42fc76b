"""What docs/scaling.md extrapolates follows from the results that it names."""

import json

from tests.docs.pages import REPOSITORY

TEXT = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
RESULTS = REPOSITORY / "benchmarks" / "results"
# DETR's paper: 300 epochs of train2017 in 3 days on 16 GPUs.
IMAGES, RATE = 118_287, 300 * 118_287 / (3 * 24 * 3600 * 16)


def rows(name, table=0):
    """Numbers of a benchmark's table by the first cell of their row."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    return {row[0]: row[1:] for row in content["tables"][table]["rows"]}


def shown(seconds):
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def table_row(name, seconds):
    return f"| {name} | {' | '.join(shown(seconds / gpus) for gpus in (1, 8, 64))} |"


def test_extrapolation_follows_from_the_results():
    steps = rows("qat_cpu")
    sensitivities = round(rows("fisher_cpu")["diagonal, 2 objectives"][1], 1)
    qat = round(steps["QAT"][1], 2)
    penalty = round(steps["QAT + finite_difference, per_image, every 4"][2], 2)
    for words in (
        f"{RATE:.1f} images a second",
        f"sensitivities to two objectives {sensitivities} times a plain pass",
        f"a QAT step {qat} times a plain one",
        f"another {penalty} times",
    ):
        assert words in " ".join(TEXT.split()), words
    epoch = IMAGES / RATE * qat
    for row in (
        table_row("sensitivities, 1,024 calibration images", 1024 / RATE * sensitivities),
        table_row("QAT, one epoch", epoch),
        table_row("QAT with the penalty, one epoch", epoch * penalty),
    ):
        assert row in TEXT, row


def test_what_does_not_scale_is_what_was_measured():
    rounding = dict(
        row[1:3] for row in json.loads((RESULTS / "rounding_cpu.json").read_text())["tables"][0]["rows"]
    )
    evaluation = json.loads((RESULTS / "evaluation_cpu.json").read_text())["tables"][0]
    seconds = {by: taken for case, by, taken, _ in evaluation["rows"] if case == "shared"}
    for words, value in (
        ("(the default), for one objective", rounding["against the Fisher"]),
        ("with scales of least squared error", rounding["to nearest, squared error"]),
        ("by pycocotools, on the main rank", seconds["evaluator on pycocotools"]),
        ("the same with `TEST.FAST_EVAL`", seconds["evaluator on faster-coco-eval"]),
    ):
        assert f"{words} | {value:.0f} |" in TEXT, words
    assert f"integer program, median | {rows('allocation_cpu')['bytes'][0]:.1f} |" in TEXT
