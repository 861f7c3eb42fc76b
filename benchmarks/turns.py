"""Variants that take turns, each in a process of its own: memory is its own, and drifts are shared."""

import argparse
import contextlib
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("size", "batch", "steps", "device")  # what the processes are given
READY = "ready"  # what the process of a contestant says when it is warm


def add_options(
    parser: argparse.ArgumentParser, size: int | None, batch: int | None, rounds: int, steps: int
) -> None:
    """Options of a benchmark that takes turns, and their defaults; None: each model has its own."""
    own = ", in place of each model's own" if size is None else ""
    parser.add_argument("--size", type=int, default=size, help=f"side of the square images, pixels{own}")
    parser.add_argument("--batch", type=int, default=batch, help=f"images of a step{own}")
    parser.add_argument("--steps", type=int, default=steps, help="measured steps of a turn, behind a warm-up")
    add_turns(parser, rounds)


def add_turns(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Options of every benchmark that takes turns."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="results file (JSON)")
    parser.add_argument("--only", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS)


def take_turns(
    module: str,
    variants: Mapping[str, Sequence[str]],
    rounds: int,
    args: argparse.Namespace,
    keys: Sequence[str] = OPTIONS,
) -> dict[str, list[dict]]:
    """Measure variants one after the other, several times.

    Args:
        module: the benchmark; with `--only` and a variant's arguments it prints what it measured as JSON.
        variants: arguments of `--only` by name.
        rounds: turns of each.
        args: of the benchmark.
        keys: those of its options that the processes are given, where they are set.

    Returns:
        What was measured by name.
    """
    turns: dict[str, list[dict]] = {name: [] for name in variants}
    for _, (name, only) in itertools.product(range(rounds), variants.items()):
        command = _command(module, only, args, keys)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        turns[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(*only, turns[name][-1], file=sys.stderr)
    return turns


class Contestant:
    """A variant whose process stays, warm, and measures whenever it has its turn.

    Turns of several that follow each other within seconds are compared under the same load of the machine.
    """

    def __init__(self, module: str, only: Sequence[str], args: argparse.Namespace):
        """Start the process, and wait until it is warm.

        Args:
            module: the benchmark; with `--only` and a variant's arguments it warms up, calls `answer_turns`.
            only: the arguments.
            args: of the benchmark.

        Raises:
            subprocess.CalledProcessError: it has ended.
        """
        self._only = only
        self._process = subprocess.Popen(
            _command(module, only, args, OPTIONS),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        while self._read() != READY:
            pass

    def __enter__(self) -> Self:
        """The process ends with the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Tell the process that there are no more turns."""
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def take_turn(self) -> dict:
        """What the process measures now.

        Raises:
            subprocess.CalledProcessError: it has ended.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended, as reading tells
            print(file=self._process.stdin, flush=True)
        line = self._read()
        print(*self._only, line, file=sys.stderr)
        return json.loads(line)

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        return line.strip()


def answer_turns(measure: Callable[[], dict]) -> None:
    """Be the process of a `Contestant`: measure and print, until there are no more turns."""
    print(READY, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def _command(module: str, only: Sequence[str], args: argparse.Namespace, keys: Sequence[str]) -> list[str]:
    options = [word for key in keys if getattr(args, key) for word in (f"--{key}", str(getattr(args, key)))]
    return [sys.executable, "-m", module, "--only", *only, *options]


def peak_bytes(device: str) -> int:
    """Peak memory of this process: the resident one, or on a GPU torch's."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
