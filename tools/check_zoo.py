#!/usr/bin/env python
"""Run the command of every measured entry of the model zoo and hold its numbers against the row.

    tools/check_zoo.py                              (all that were measured here)
    tools/check_zoo.py street_detr_small ...        (these)
    tools/check_zoo.py --output benchmarks/results/zoo_check.json       (and note what was found)

Their data sets have to be there: `python datasets/make_street.py` draws street, datasets/README.md has the
others. Without names an entry whose data set is absent is left out, and said to be. Exits with 1 where a
number is further from its row than its tolerance.
"""

import argparse
import contextlib
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.engine import default_argument_parser
from tabulate import tabulate

from fisher_detr import model_zoo
from fisher_detr.engine import read_config, run_training_command
from fisher_detr.engine.defaults import prepare
from fisher_detr.files import write_json
from fisher_detr.model_zoo import ZooEntry, describe_study

COLUMNS = ["entry", "AP of the row", "AP now", "furthest metric", "tolerance", "metrics", "off"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, check, print a table."""
    args, rows, failed, absent = parse(arguments), [], [], []
    try:
        for entry in chosen(args.names):
            print(f"> {entry.name}", flush=True)
            if not args.names and (missing := missing_data(entry)):
                absent.append(f"{entry.name} is not checked: {missing}")
                continue
            found = evaluate(entry)
            wrong = deviations(entry, found)
            failed += [f"{entry.name}: {line}" for line in wrong]
            rows.append(row(entry, found, len(wrong)))
        if args.output:
            write_json(args.output, describe(rows, arguments))
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"check_zoo: {error}")
    print("\n".join([tabulate(rows, COLUMNS, floatfmt=("", ".2f", ".2f", ".2f", "g")), *absent]))
    if failed:
        sys.exit("\n".join(f"check_zoo: {line}" for line in failed))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="of entries; default: all that were measured here")
    parser.add_argument("--output", metavar="FILE", help="what was found as a results file (JSON)")
    return parser.parse_args(arguments)


def chosen(names: Sequence[str]) -> list[ZooEntry]:
    """The entries to check.

    Raises:
        ValueError: an unknown name, or an entry that was not measured here.
    """
    entries = [model_zoo.entry(name) for name in names] or [x for x in model_zoo.entries() if x.measured]
    if quoted := [entry.name for entry in entries if not entry.measured]:
        raise ValueError(f"{', '.join(quoted)}: quoted and not measured here, there is nothing to check")
    return entries


def missing_data(entry: ZooEntry) -> str:
    """Which file of the data sets that are evaluated on is not there; "": all are."""
    args = options(entry)
    cfg = read_config(args.config_file, args.opts)
    try:
        prepare(cfg, ("TEST",))
    except FileNotFoundError as error:
        return str(error)
    return ""


def options(entry: ZooEntry) -> argparse.Namespace:
    """The entry's command."""
    words = shlex.split(entry.command)
    return default_argument_parser().parse_args(words[words.index("--config-file") :])


def evaluate(entry: ZooEntry) -> dict[str, float]:
    """What the entry's command reports for boxes; its log is dropped unless it fails."""
    args = options(entry)
    with tempfile.TemporaryDirectory() as folder:
        args.opts += ["OUTPUT_DIR", folder]
        with open(Path(folder, "stdout"), "w") as file, contextlib.redirect_stdout(file):
            return run_training_command(args)["bbox"]


def row(entry: ZooEntry, found: Mapping[str, float], off: int) -> list:
    """Cells of the table."""
    ap = entry.metrics["AP"]
    furthest = max(abs(found[name] - metric.value) for name, metric in entry.metrics.items())
    return [entry.name, ap.value, found["AP"], furthest, ap.tolerance, len(entry.metrics), off]


def describe(rows: Sequence[list], arguments: Sequence[str] | None) -> dict:
    """The results file."""
    text = "Every entry's own command; the furthest metric is the largest distance from the row, in points."
    table = {"caption": "published rows and what their commands print", "columns": COLUMNS, "rows": rows}
    return describe_study("python tools/check_zoo.py", "The model zoo, checked", [text], [table], arguments)


def deviations(entry: ZooEntry, found: dict[str, float]) -> list[str]:
    """Metrics that are further from the row than its tolerance; a NaN is."""
    return [
        f"{name} is {found[name]:.2f}, the row says {metric.value:.2f} within {metric.tolerance:g}"
        for name, metric in entry.metrics.items()
        if not abs(found[name] - metric.value) <= metric.tolerance
    ]


if __name__ == "__main__":
    main()
