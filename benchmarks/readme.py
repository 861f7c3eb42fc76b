#!/usr/bin/env python
"""Write benchmarks/README.md from the files in benchmarks/results.

python -m benchmarks.readme [--check]
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import aims
from fisher_detr.files import write_text
from fisher_detr.model_zoo import Study, markdown_table, read_studies, render_study

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER / "README.md"
INTRODUCTION = """\
# Benchmarks

<!-- Written by `python -m benchmarks.readme` from benchmarks/results: edit that. -->

Speed and memory; numbers are medians. Where another library, or another way, does the same work it is a peer,
measured beside this one in the same run: implementations take turns, in processes of their own where memory
counts. A step of quantization-aware training is beside a plain step of the same model. The rest, such as
allocation, rounding and scaling, has no peer. `make bench` measures all of it again and writes this page.
What accuracy is lost and won is in [MODEL_ZOO.md](../MODEL_ZOO.md).

## At a glance

Times as fast as the peer, better above 1, and memory as a part of the peer's, better below 1. A critical
evaluation, of all critical sets, is beside one plain evaluation, which knows none. "Image by image" is
torch.autograd on one image after the other.
"""
TARGETS = """
## What was aimed for
"""
FLOAT32 = "onnxruntime, float32"
# Rows of bench_fisher that other ways to gradients of single images have, and the names of these.
PER_IMAGE = {
    "torch.func: vmap of grad": "torch.func: vmap of grad",
    "BackPACK: SumGradSquared": "BackPACK: SumGradSquared",
    "diagonal, 1 objective, image by image": "torch.autograd, image by image",
    "diagonal, 1 objective, by autograd": "torch.autograd, image by image",
}


class Beside(NamedTuple):
    """What was measured beside a peer.

    Attributes:
        what: in words.
        peer: its name.
        times: as fast as the peer.
        memory: part of the peer's; None: not measured.
    """

    what: str
    peer: str
    times: float
    memory: float | None = None

    def cells(self) -> list[str]:
        """For the table; better or not by the numbers as they were measured and not as they are shown."""
        worse = ["slower"] * (self.times < 1.0) + ["more memory"] * ((self.memory or 0.0) > 1.0)
        memory = "" if self.memory is None else f"{self.memory:.2f}"
        verdict = f"**no: {', '.join(worse)}**" if worse else "yes"
        return [self.what, self.peer, f"{self.times:.2f}", memory, verdict]


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
        [*beside.cells(), study.environment["device"]]
        for study in studies
        for beside in GLANCE.get(study.title, lambda _: iter(()))(study)
    ]
    return markdown_table(["what", "peer", "times as fast", "part of its memory", "better", "machine"], rows)


def training(study: Study) -> Iterator[Beside]:
    """Steps beside transformers'."""
    for model, _, _, times, memory, peers_memory, *_ in study.tables[0].rows:
        yield Beside(f"training step, {model}", "transformers", times, memory / peers_memory)


def evaluation(study: Study) -> Iterator[Beside]:
    """The whole critical evaluation beside one plain one."""
    for case, by, _, times in study.tables[0].rows:
        if by != "pycocotools, plain":
            yield Beside(
                f"critical {by}, detections {case}", "pycocotools, one plain evaluation", 1.0 / times
            )


def deployment(study: Study) -> Iterator[Beside]:
    """Integers beside floats in the same runtime."""
    rows = {(model, how): numbers for model, how, *numbers in study.tables[0].rows}
    for (model, how), (_, _, times, _, _, memory) in rows.items():
        if how == "onnxruntime, W8A8":
            *_, peers_memory = rows[model, FLOAT32]
            yield Beside(f"{model} exported, W8A8", FLOAT32, times, memory / peers_memory)


def fisher(study: Study) -> Iterator[Beside]:
    """Per-image gradients beside other ways to them; other libraries differentiate the classifier alone."""
    for table in study.tables:
        passes = {name: (seconds, memory) for name, seconds, _, memory, _ in table.rows}
        seconds, memory = passes["diagonal, 1 objective"]
        for name, (peers_seconds, peers_memory) in passes.items():
            if peer := PER_IMAGE.get(name):
                what = f"Fisher diagonal of a {table.caption.partition(',')[0]}"
                yield Beside(what, peer, peers_seconds / seconds, memory / peers_memory)


GLANCE: dict[str, Callable[[Study], Iterator[Beside]]] = {
    "Critical evaluator": evaluation,
    "Exported detectors": deployment,
    "Fisher information": fisher,
    "Training step beside transformers": training,
}


if __name__ == "__main__":
    main()
