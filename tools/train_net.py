#!/usr/bin/env python
"""Train, resume, evaluate or quantize a detector from a config.

tools/train_net.py --config-file configs/street/detr_small.yaml
tools/train_net.py --config-file ... --resume
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
tools/train_net.py --config-file ... QUANT.ENABLED True ALLOCATION.ARM fisher_critical
"""

import argparse
import re
import sys

from detectron2.engine import default_argument_parser, launch

from fisher_detr.engine import run_training_command


def main() -> None:
    """Parse the command line and run it, on one process or one for each GPU."""
    args = default_argument_parser(epilog=__doc__).parse_args()
    if args.num_gpus > 1 or args.num_machines > 1:
        launch(run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    """Run the command; a user's mistake ends in one line."""
    try:
        run_training_command(args)
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        sys.exit(f"train_net: {one_line(error)}")


def one_line(error: Exception) -> str:
    """What went wrong; of an error in a data worker the last line of the trace that comes with it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught "):
        return re.sub(r"^\w+: ", "", lines[-1])
    return " ".join(line.strip() for line in lines)


if __name__ == "__main__":
    main()
