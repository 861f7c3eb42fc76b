#!/usr/bin/env python
"""Write benchmarks/README.md from the files in benchmarks/results.

python -m benchmarks.readme [--check]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import aims
from fisher_detr.files import write_text
from fisher_detr.model_zoo import Study, markdown_table, read_studies, render_study

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER / "README.md"
INTRODUCTION = """\
# Benchmarks

<!-- Written by `python -m benchmarks.readme` from benchmarks/results: edit that. -->

Speed and memory, each measured beside a peer in the same run: implementations take turns, in processes of
their own where memory counts; numbers are medians. `make bench` measures all of it again and writes this
page. What accuracy is lost and won is in [MODEL_ZOO.md](../MODEL_ZOO.md).

## At a glance

Times as fast as the peer: above 1 is better than the peer, below 1 is not.
"""
TARGETS = """
## What was aimed for
"""
# Rows of what was measured, the peer, and how many times as fast as the peer.
Rows = list[tuple[str, str, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, or tell whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the page differs")
    check = parser.parse_args(arguments).check
    text = render(benchmarks())
    if not check:
        write_text(PAGE, text)
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("readme: benchmarks/README.md differs from the results: run `python -m benchmarks.readme`")


def benchmarks() -> list[Study]:
    """What there is in benchmarks/results."""
    return [study for study in read_studies(FOLDER / "results") if study.is_benchmark]


def render(studies: Sequence[Study]) -> str:
    """The whole page."""
    return "\n".join(
        [INTRODUCTION, glance(studies), TARGETS, aims.table(studies), *map(render_study, studies)]
    )


def glance(studies: Sequence[Study]) -> str:
    """Table of the peers."""
    rows = [
        [what, peer, f"{times:.2f}", study.environment["device"]]
        for study in studies
        for what, peer, times in GLANCE.get(study.title, lambda _: [])(study)
    ]
    return markdown_table(["what", "peer", "times as fast", "machine"], rows)


def training(study: Study) -> Rows:
    """Steps beside transformers'."""
    return [(f"training step, {row[0]}", "transformers", row[3]) for row in study.tables[0].rows]


def evaluation(study: Study) -> Rows:
    """The whole critical evaluation beside one plain one."""
    peers = "pycocotools, one plain evaluation"
    return [
        (f"critical {by}, detections {case}", peers, 1.0 / times)
        for case, by, _, times in study.tables[0].rows
        if by != "pycocotools, plain"
    ]


def deployment(study: Study) -> Rows:
    """Integers beside floats in the same runtime."""
    return [
        (f"{row[0]} exported, W8A8", "onnxruntime, float32", row[4])
        for row in study.tables[0].rows
        if row[1] == "onnxruntime, W8A8"
    ]


def fisher(study: Study) -> Rows:
    """Per-image gradients beside other libraries', on a classifier that they can differentiate."""
    classifier = study.tables[-1].rows
    ours = next(row[1] for row in classifier if row[0].endswith("1 objective"))
    peers = [row for row in classifier if row[0].startswith(("torch.func", "BackPACK"))]
    return [("Fisher diagonal of a ResNet-50", row[0], row[1] / ours) for row in peers]


GLANCE: dict[str, Callable[[Study], Rows]] = {
    "Critical evaluator": evaluation,
    "Exported detectors": deployment,
    "Fisher information": fisher,
    "Training step beside transformers": training,
}


if __name__ == "__main__":
    main()
