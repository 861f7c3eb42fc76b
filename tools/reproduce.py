#!/usr/bin/env python
"""Measure one table of the paper from official checkpoints, on the real data sets.

    tools/reproduce.py                              (lists the tables)
    tools/reproduce.py ptq_coco --checkpoints checkpoints
    tools/reproduce.py qat_cityscapes --models detr_r50 --bits 4 --opts SOLVER.IMS_PER_BATCH 8

Data lie where datasets/README.md says. The same command goes on where it was cut off: every result is kept in
--output, and trainings resume. The table is printed and stored in benchmarks/results; `make zoo` then puts it
into MODEL_ZOO.md (docs/reproduce.md).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from fisher_detr.engine import start_logging
from fisher_detr.files import read_json, write_json
from fisher_detr.model_zoo import (
    NOT_MEASURED,
    PAPER_BITS,
    PAPER_MODELS,
    PAPER_TABLES,
    PaperRow,
    PaperTable,
    Reproduction,
    describe_study,
    reproduce,
)

ROOT = Path(__file__).resolve().parents[1]
LEAVES = {model.leaf: model for model in PAPER_MODELS}
COLUMNS = ["model", "bits", "arm", "AP", "critical set", "APcrit", "bytes"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print and store; a mistake ends in one line."""
    args = parse(arguments)
    if args.table is None:
        print("\n".join(f"{name:20} {table.title}" for name, table in PAPER_TABLES.items()))
        return
    table, models = PAPER_TABLES[args.table], [LEAVES[leaf] for leaf in args.models]
    folders = args.checkpoints, args.output, ROOT / "configs"
    rows = []
    try:
        start_logging(str(args.output))
        for found in reproduce(Reproduction(table, models, args.bits, *folders, args.opts)):
            rows.append(cells(found))
            print(f"> {', '.join(map(str, rows[-1]))}", flush=True)
        print(tabulate(rows, COLUMNS, floatfmt=".2f", intfmt=","))
        store(args.results / table.results_file, table, rows, arguments)
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        sys.exit(f"reproduce: {error}")


def store(path: Path, table: PaperTable, rows: list[list], arguments: Sequence[str] | None) -> None:
    """Write the whole table: what was measured now, before, and not at all."""
    before = read_json(path, "results file")["tables"][0]["rows"] if path.exists() else []
    measured = {tuple(row[:3]): row for row in before if row[3] != NOT_MEASURED}
    measured |= {tuple(row[:3]): row for row in rows}
    all_rows = [measured.get(key, [*key, NOT_MEASURED, "", NOT_MEASURED, None]) for key in table.row_keys()]
    content = {"caption": "AP and APcrit by arm", "columns": COLUMNS, "rows": all_rows}
    text = ["From the official checkpoints (docs/reproduce.md)."]
    write_json(path, describe_study("python tools/reproduce.py", table.title, text, [content], arguments))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", nargs="?", choices=list(PAPER_TABLES), help="default: lists them")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder of the official files"
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(LEAVES), default=list(LEAVES), help="default: all"
    )
    parser.add_argument("--bits", type=int, nargs="+", choices=PAPER_BITS, default=list(PAPER_BITS))
    parser.add_argument("--output", type=Path, default=Path("output/paper"), help="folder of all runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="of the table")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values")
    return parser.parse_args(arguments)


def cells(found: PaperRow) -> list:
    """A row of the table; a set without objects has no AP."""
    critical = found.result.metrics[f"APcrit_{found.critical_set}"]
    values = [None if math.isnan(x) else round(x, 2) for x in (found.result.metrics["AP"], critical)]
    row = [found.model.title, found.bits, found.result.name, values[0], found.critical_set, values[1]]
    return [*row, found.result.size_bytes]


if __name__ == "__main__":
    main()
