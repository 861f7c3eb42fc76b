#!/usr/bin/env python
"""Convert an official checkpoint of DETR, Deformable DETR or DAB-DETR to this project's names, or back.

tools/convert_checkpoint.py detr-r50-e632da11.pth --output detr_r50.pth
tools/convert_checkpoint.py detr-r50-e632da11.pth --output mine.pth --classes reinit --num-classes 7
tools/convert_checkpoint.py detr_r50.pth --to-official --output restored.pth

Evaluation and training read official files as they are (MODEL.WEIGHTS); see docs/checkpoints.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fisher_detr.checkpoint import (
    ClassChoice,
    ClassPolicy,
    ConversionManifest,
    UnplacedKeysError,
    convert_official_file,
    restore_official_file,
    spelled,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert and say what was done; a mistake ends in one line, after the list of keys it is about."""
    args = parse(arguments)
    try:
        if args.to_official:
            manifest = restore_official_file(
                args.file, args.output, args.dropped, args.classes, args.force, args.num_queries
            )
        else:
            choice = ClassChoice(args.classes, args.num_classes, args.class_ids, args.seed)
            manifest = convert_official_file(args.file, args.output, choice, args.dc5 or None, args.force)
    except UnplacedKeysError as error:
        for title, keys in (("no place", error.unplaced), ("missing", error.missing)):
            for key in keys:
                print(f"{title}: {key}", file=sys.stderr)
        sys.exit(f"convert_checkpoint: {error}")
    except (ValueError, OSError) as error:
        sys.exit(f"convert_checkpoint: {error}")
    print("\n".join(summary(manifest, Path(args.output))))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; options that do not go together are a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", help="the checkpoint to convert")
    parser.add_argument("--output", required=True, help="the .pth to write; its manifest comes beside it")
    parser.add_argument(
        "--classes",
        type=ClassPolicy,
        choices=list(ClassPolicy),
        default=ClassPolicy.REMAP,
        help="remap: the rows of the data set's categories, by their ids (the default);\n"
        "reinit: new rows for --num-classes; error: all rows as they are, or fail",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes that must come out")
    parser.add_argument(
        "--class-ids", type=int, nargs="+", metavar="ID", help="rows to keep of a head of your own data"
    )
    parser.add_argument(
        "--dc5", action="store_true", help="the last stage is dilated, which the names do not tell"
    )
    parser.add_argument("--seed", type=int, default=0, help="of new rows")
    parser.add_argument(
        "--to-official", action="store_true", help="from this project's names to the official"
    )
    parser.add_argument(
        "--dropped",
        metavar="FILE",
        help="with --to-official: the .dropped.safetensors of the conversion,\nif not beside it",
    )
    parser.add_argument(
        "--num-queries",
        type=int,
        metavar="N",
        help="with --to-official: queries of one group (MODEL.DETR.NUM_QUERIES),\nif the file does not tell",
    )
    parser.add_argument("--force", action="store_true", help="overwrite")
    args = parser.parse_args(arguments)
    forward = [args.num_classes, args.class_ids, args.dc5 or None]
    if args.to_official and (any(x is not None for x in forward) or args.classes is ClassPolicy.REINIT):
        parser.error("--num-classes, --class-ids, --dc5 and --classes reinit do not go with --to-official")
    if not args.to_official and (args.dropped or args.num_queries is not None):
        parser.error("--dropped and --num-queries go with --to-official")
    return args


def summary(manifest: ConversionManifest, output: Path) -> list[str]:
    """What was done, for a person."""
    keys, classes, architecture = manifest.keys, manifest.classes, manifest.architecture
    lines = [
        f"{manifest.source.file} is {architecture.title}",
        f"{keys.official} official keys, {keys.tensors} distinct tensors; {keys.ours} keys here",
    ]
    if keys.counters or keys.left_out:
        lines.append(f"left out: {keys.counters} counters, {keys.left_out} keys of a mask head")
    if not classes.kept:
        lines.append(f"new rows for {classes.num_classes} classes: train them")
    else:
        dropped = f", without rows {', '.join(map(str, classes.dropped))}" if classes.dropped else ""
        lines.append(f"{classes.num_classes} classes for {classes.official_rows} class rows{dropped}")
    if classes.made_up:
        lines.append(f"no file of dropped rows: {len(classes.made_up)} rows are made up, never predicted")
    if manifest.dropped_rows:
        lines.append(f"dropped rows: {manifest.dropped_rows}")
    if manifest.other_queries:
        lines.append(
            f"{architecture.query_groups} groups of queries: {manifest.other_queries} has all but the first"
        )
    lines.append(f"{output} is written")
    if manifest.direction == "from official":
        config, settings = architecture.config(classes.num_classes)
        lines.append(f"it fits {config}{' with ' + spelled(settings) if settings else ''}")
        if architecture.dilation is None:
            lines.append("its names do not tell whether it is a DC5 model: give --dc5 if it is")
    return lines


if __name__ == "__main__":
    main()
