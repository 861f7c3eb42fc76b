"""Makes boxes of Cityscapes' instances from the polygons of gtFine; they are detected by name then.

Example:
    python datasets/prepare_cityscapes.py --check
    python datasets/prepare_cityscapes.py --root /data --splits val
"""

import argparse
import sys

from command_line import exit_status, preparation_parser, run_preparation


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = preparation_parser(__doc__, "cityscapes")
    parser.add_argument("--subset", action="store_true", help="take less than the official splits")
    return parser.parse_args(arguments)


def prepare(args: argparse.Namespace) -> int:
    """Makes what is missing, city by city; returns the exit status."""
    from fisher_detr.data.cityscapes import missing_of_cityscapes, prepare_cityscapes

    dataset = "cityscapes_fine_detection_{}"
    return run_preparation(args, prepare_cityscapes, missing_of_cityscapes, dataset, subset=args.subset)


def main(arguments: list[str] | None = None) -> int:
    """Prepares the data set and says so; returns the exit status, with --check 1 if anything is missing."""
    args = parse_args(arguments)
    return exit_status(lambda: prepare(args), "with the next city")


if __name__ == "__main__":
    sys.exit(main())
