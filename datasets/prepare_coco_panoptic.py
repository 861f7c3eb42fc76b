"""Makes boxes of things and stuff from COCO's panoptic_{train,val}2017.json; they are detected by name then.

Example:
    python datasets/prepare_coco_panoptic.py --check
    python datasets/prepare_coco_panoptic.py --root /data --splits val
"""

import argparse
import os
import sys
from pathlib import Path


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser(),
        help="folder that holds coco/",
    )
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    parser.add_argument("--check", action="store_true", help="say what is missing and change nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing and says so; returns the exit status, with --check 1 if anything is missing."""
    args = parse_args(arguments)
    from fisher_detr.data import coco_panoptic  # late: --help needs no torch

    try:
        made = [] if args.check else coco_panoptic.prepare_coco_panoptic(args.root, args.splits)
        missing = coco_panoptic.missing_of_coco_panoptic(args.root, args.splits)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the next split", file=sys.stderr)
        return 130
    for line in missing:
        print(f"missing: {line}")
    if made or not missing:
        names = ", ".join(f"coco_2017_{split}_panoptic_detection" for split in args.splits)
        print(f"coco_panoptic: {', '.join(made) or 'nothing'} made; data sets {names} in {args.root}")
    return int(args.check and bool(missing))


if __name__ == "__main__":
    sys.exit(main())
