"""A training that tells the loss of every iteration; as a program, one of several ranks of it.

torchrun ... tests/engine/recorded.py LOSSES [--die ITERATION] <arguments of tools/train_net.py>
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from detectron2.engine import HookBase, default_argument_parser
from detectron2.utils import comm

from fisher_detr.engine import Rank, Trainer, device_type, setup


class Recorder(HookBase):
    """Keeps the losses, which the main process has; kills the last rank before an iteration."""

    def __init__(self, die: int | None = None):
        self.losses: list[float] = []
        self._die = die

    def before_step(self):
        if self.trainer.iter == self._die and comm.get_rank() == comm.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_step(self):
        if comm.is_main_process():
            self.losses.append(self.trainer.storage.history("total_loss").latest())


def train(args: argparse.Namespace, die: int | None = None) -> tuple[list[float], dict]:
    """Losses by iteration, and the metrics of the last evaluation."""
    trainer, recorder = Trainer(setup(args)), Recorder(die)
    trainer.register_hooks([recorder])
    trainer.resume_or_load(args.resume)
    metrics = trainer.train()
    return recorder.losses, metrics


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("losses", type=Path)
    own.add_argument("--die", type=int)
    first, rest = own.parse_known_args(sys.argv[1:])
    args = default_argument_parser().parse_args(rest)
    with Rank.from_environment().joined(device_type(args)):
        losses, metrics = train(args, first.die)
        if comm.is_main_process():
            first.losses.write_text(json.dumps({"losses": losses, "metrics": metrics}))


if __name__ == "__main__":
    main()
