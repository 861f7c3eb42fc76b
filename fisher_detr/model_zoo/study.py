"""A study: tables that a benchmark has measured, as a file in `benchmarks/results/`."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_detr.engine import environment
from fisher_detr.files import read_json
from fisher_detr.model_zoo.schema import parse


@dataclasses.dataclass(frozen=True)
class Table:
    """R rows of K columns; a cell is a text, a number or None.

    Attributes:
        caption: one sentence.
        columns: their K names.
        rows: R lists of K cells.
    """

    caption: str
    columns: list[str]
    rows: list[list[Any]]

    def __post_init__(self):
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells, expected {len(self.columns)}")
            if not all(cell is None or isinstance(cell, str | int | float) for cell in row):
                raise ValueError(f"row {number} is {row}, expected texts and numbers")


@dataclasses.dataclass(frozen=True)
class Study:
    """What a benchmark writes.

    Attributes:
        title: heading.
        command: run in the repository, makes the file again.
        text: paragraphs.
        environment: at least "torch" and "device": where it was measured.
        tables: the results.
    """

    title: str
    command: str
    text: list[str]
    environment: dict[str, str]
    tables: list[Table]

    @property
    def is_benchmark(self) -> bool:
        """Whether it is of speed and memory (`make bench`), which benchmarks/README.md shows."""
        return self.command.startswith("python -m benchmarks.bench_")

    def __post_init__(self):
        if absent := sorted({"torch", "device"} - set(self.environment)):
            raise ValueError(f"environment lacks {', '.join(absent)}: say where it was measured")


def describe_study(
    program: str,
    title: str,
    text: Sequence[str],
    tables: Sequence[Mapping[str, Any]],
    arguments: Sequence[str] | None = None,
    peers: Sequence[str] = (),
) -> dict[str, Any]:
    """What a benchmark measured here and now, as its file holds it.

    Args:
        program: that was started, such as "python -m benchmarks.bench_qat".
        title: heading.
        text: paragraphs.
        tables: each with `caption`, `columns` and `rows`.
        arguments: of the program; None: this process'.
        peers: distributions that were measured beside, whose versions are told.
    """
    return {
        "title": title,
        "command": f"{program} {shlex.join(sys.argv[1:] if arguments is None else arguments)}",
        "text": list(text),
        "environment": environment(*peers),
        "tables": list(tables),
    }


def read_studies(folder: str | os.PathLike) -> list[Study]:
    """The studies of a folder by file name; none where it does not exist.

    Raises:
        ValueError: a JSON file that is not a study; file and keys are named.
    """
    paths = sorted(Path(folder).glob("*.json"))
    return [parse(Study, read_json(path, "results file"), str(path)) for path in paths]
