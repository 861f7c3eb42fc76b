"""Variants that take turns, each in a process of its own: memory is its own, and drifts are shared."""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def take_turns(
    module: str,
    variants: Mapping[str, Sequence[str]],
    rounds: int,
    args: argparse.Namespace,
    keys: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> dict[str, list[dict]]:
    """Measure variants one after the other, several times.

    Args:
        module: the benchmark; with `--only` and a variant's arguments it prints what it measured as JSON.
        variants: arguments of `--only` by name.
        rounds: turns of each.
        args: of the benchmark.
        keys: those of its options that the processes are given, where they are set.
        environment: more variables.

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
            env=os.environ | dict(environment or {}),
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
