"""What the scripts beside this file share: options, messages and exit status."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def exit_status(work: Callable[[], int], goes_on: str) -> int:
    """Does the work and says in one line what was wrong with the input.

    Args:
        work: returns the exit status.
        goes_on: where the same command goes on after an interrupt.

    Returns:
        that of the work, 1 after an error, 130 after an interrupt.
    """
    try:
        return work()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on {goes_on}", file=sys.stderr)
        return 130


def preparation_parser(doc: str, folder: str) -> argparse.ArgumentParser:
    """Options of a script that makes the annotation files of a data set.

    Args:
        doc: of the script; its first line is the description.
        folder: of the data set, below that of all.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        help=f"folder that holds {folder}/ (default: what $DETECTRON2_DATASETS names, else datasets)",
    )
    parser.add_argument(
        "--splits", nargs="+", choices=("train", "val"), default=["train", "val"], help="(default: both)"
    )
    parser.add_argument("--check", action="store_true", help="say what is missing and change nothing")
    return parser


def run_preparation(
    args: argparse.Namespace,
    prepare: Callable[..., list[str]],
    missing: Callable[..., list[str]],
    dataset: str,
    **options: object,
) -> int:
    """Makes what is missing and says so.

    Args:
        args: of `preparation_parser`.
        prepare: from root, splits and options to the splits that had to be made.
        missing: from the same to what is missing, a line each.
        dataset: name of a data set, with {} for the split.
        **options: of the two.

    Returns:
        the exit status: with --check 1 if anything is missing, otherwise 0.
    """
    from fisher_detr.data import datasets_root  # late: --help needs no torch

    root = args.root or Path(datasets_root())
    made = [] if args.check else prepare(root, args.splits, **options)
    lines = missing(root, args.splits, **options)
    for line in lines:
        print(f"missing: {line}")
    if made or not lines:
        names = ", ".join(dataset.format(split) for split in args.splits)
        print(f"{', '.join(made) or 'nothing'} made; data sets {names} in {root}")
    return int(args.check and bool(lines))
