"""Draws `street`, the procedural set of street scenes in COCO format.

Example:
    python datasets/make_street.py --workers 2
    python datasets/make_street.py --output /tmp/street --splits train test --num-train 500 --num-test 200
"""

import argparse
import os
import sys
from pathlib import Path

from command_line import exit_status


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent / "street", help="folder to write"
    )
    for split, count in (("train", 2000), ("val", 500), ("test", 2000)):
        parser.add_argument(f"--num-{split}", type=int, default=count, help=f"images of the {split} split")
    parser.add_argument(
        "--splits", nargs="+", choices=("train", "val", "test"), default=["train", "val", "test"]
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw")
    parser.add_argument(
        "--force", action="store_true", help="make a street set anew that was made with other settings"
    )
    return parser.parse_args(arguments)


def draw(args: argparse.Namespace) -> int:
    """Makes what is missing and says so; returns the exit status."""
    from fisher_detr.data.street import make_dataset  # late: --help needs no torch

    sizes = {split: getattr(args, f"num_{split}") for split in args.splits}
    made = make_dataset(args.output, sizes, args.seed, args.workers, args.force)
    counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
    print(f"street: {counts} images {'made' if made else 'were already'} in {args.output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Draws the data set; returns the exit status."""
    args = parse_args(arguments)
    return exit_status(lambda: draw(args), "where it stopped")


if __name__ == "__main__":
    sys.exit(main())
