"""Variants that take turns, each in a process of its own: memory is its own, and drifts are shared."""

import argparse
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("size", "batch", "steps", "device")  # what the processes are given


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
    options = [word for key in keys if getattr(args, key) for word in (f"--{key}", str(getattr(args, key)))]
    for _, (name, only) in itertools.product(range(rounds), variants.items()):
        done = subprocess.run(
            [sys.executable, "-m", module, "--only", *only, *options],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        turns[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(*only, turns[name][-1], file=sys.stderr)
    return turns


def peak_bytes(device: str) -> int:
    """Peak memory of this process: the resident one, or on a GPU torch's."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
