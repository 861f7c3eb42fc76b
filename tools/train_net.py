#!/usr/bin/env python
"""Train, resume, evaluate or quantize a detector from a config.

tools/train_net.py --config-file configs/street/detr_small.yaml
tools/train_net.py --config-file ... --resume
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
tools/train_net.py --config-file ... QUANT.ENABLED True ALLOCATION.ARM fisher_critical
torchrun --nproc_per_node 2 tools/train_net.py --config-file ...
"""

import argparse
import contextlib
import re
import sys

import torch
from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessRaisedException

from fisher_detr.engine import Rank, device_type, run_training_command


class Mistake(Exception):
    """What a user can mend, as one line."""


def main() -> None:
    """Parse the command line and run it."""
    run(default_argument_parser(epilog=__doc__).parse_args())


def run(args: argparse.Namespace) -> None:
    """Run the command, on one process or several; a user's mistake ends in one line."""
    rank = Rank.from_environment()
    try:
        if rank:
            run_rank(rank, args)
        elif args.num_gpus > 1 or args.num_machines > 1:
            launch_on_gpus(args)
        else:
            command(args)
    except Mistake as mistake:
        sys.exit(f"train_net: {mistake}")


def run_rank(rank: Rank, args: argparse.Namespace) -> None:
    """Run the command as one of torchrun's processes; of several that fail the first one speaks."""
    try:
        if args.num_gpus > 1 or args.num_machines > 1:
            raise Mistake("torchrun has started this process: leave out --num-gpus and --num-machines")
        command(args, rank)
    except Exception:
        rank.let_first_speak()
        raise


def launch_on_gpus(args: argparse.Namespace) -> None:
    """Run the command on one process for each GPU; of several that fail the first one speaks."""
    found = torch.cuda.device_count()
    if args.num_gpus > found:
        raise Mistake(f"--num-gpus is {args.num_gpus}, this machine has {found}: ask for no more than that")
    try:
        launch(command, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except ProcessRaisedException as error:
        # The process itself has ended; of its error there is the text, which ends in "module.Mistake: line".
        kind, _, line = str(error).strip().splitlines()[-1].partition(": ")
        if kind.rpartition(".")[2] != Mistake.__name__:
            raise
        raise Mistake(line) from None


def command(args: argparse.Namespace, rank: Rank | None = None) -> None:
    """Run the command in this process.

    Args:
        args: of the command line.
        rank: of torchrun, which is still to be joined with the others; None: there is nothing to join.

    Raises:
        Mistake: in place of the errors that the package raises for a user.
    """
    try:
        with rank.joined(device_type(args)) if rank else contextlib.nullcontext():
            run_training_command(args)
    except (ValueError, KeyError, OSError, FloatingPointError) as error:
        raise Mistake(one_line(error)) from error


def one_line(error: Exception) -> str:
    """What went wrong; of an error in a data worker the last line of the trace that comes with it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught "):
        return re.sub(r"^\w+: ", "", lines[-1])
    return " ".join(line.strip() for line in lines)


if __name__ == "__main__":
    main()
