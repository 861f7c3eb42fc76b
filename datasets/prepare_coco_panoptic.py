"""Makes boxes of things and stuff from COCO's panoptic_{train,val}2017.json; they are detected by name then.

Example:
    python datasets/prepare_coco_panoptic.py --check
    python datasets/prepare_coco_panoptic.py --root /data --splits val
"""

import argparse
import sys

from command_line import exit_status, preparation_parser, run_preparation


def prepare(args: argparse.Namespace) -> int:
    """Makes what is missing, split by split; returns the exit status."""
    from fisher_detr.data.coco_panoptic import missing_of_coco_panoptic, prepare_coco_panoptic

    dataset = "coco_2017_{}_panoptic_detection"
    return run_preparation(args, prepare_coco_panoptic, missing_of_coco_panoptic, dataset)


def main(arguments: list[str] | None = None) -> int:
    """Prepares the data set and says so; returns the exit status, with --check 1 if anything is missing."""
    args = preparation_parser(__doc__, "coco").parse_args(arguments)
    return exit_status(lambda: prepare(args), "with the next split")


if __name__ == "__main__":
    sys.exit(main())
