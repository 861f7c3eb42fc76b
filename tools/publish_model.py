#!/usr/bin/env python
"""Turn the OUTPUT_DIR of a finished run of train_net.py into an entry of the model zoo (docs/publish.md).

    tools/publish_model.py output/street/detr_small --name street_detr_small --model "DETR, small ResNet" \
        --config-file configs/street/detr_small.yaml DATASETS.TEST "('street_test',)"

The run may be a training or a post-training quantization. Optimizer and schedule are left out, quantized
weights are packed, the file is named by its hash and measured; the entry's YAML and its row in MODEL_ZOO.md
are written.
"""

import argparse
import sys
from collections.abc import Sequence

import make_model_zoo
from detectron2.utils.logger import setup_logger

from fisher_detr.model_zoo import Publication, entry, publish, read_run


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, publish, write the page; a mistake ends in one line."""
    args = parse(arguments)
    setup_logger(name="fisher_detr")
    told = Publication(
        args.name, args.model, args.config_file, args.opts, args.seconds, args.command, args.url, args.half
    )
    try:
        path = publish(read_run(args.folder, args.weights), told)
    except (ValueError, OSError) as error:
        sys.exit(f"publish_model: {error}")
    make_model_zoo.main([])
    found = entry(args.name)
    if found.url:
        print(f"upload {args.folder}/{found.file} to {found.url}")
    print(f"{path} and its row in {make_model_zoo.PAGE.name} are written; {found.file} is zoo://{args.name}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", help="OUTPUT_DIR of the run")
    parser.add_argument("--name", required=True, help="of the entry: lower-case letters, digits and '_'")
    parser.add_argument(
        "--model", required=True, help="title; quantized models share it with their float one"
    )
    parser.add_argument(
        "--config-file", required=True, help="in the repository, that the run was started with"
    )
    parser.add_argument(
        "--weights", help="file in the folder, such as model_best.pth; default: its last model"
    )
    parser.add_argument(
        "--seconds", type=float, help="that it took to make, where the run's log does not tell"
    )
    parser.add_argument("--command", help="that made it, where config and settings do not tell")
    parser.add_argument("--url", help="https folder where you put the weights; default: they are shipped")
    parser.add_argument("--half", action="store_true", help="store what is not quantized in float16")
    parser.add_argument("opts", nargs="*", help="config keys and values of the measurement")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    main()
