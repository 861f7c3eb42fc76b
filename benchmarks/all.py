#!/usr/bin/env python
"""Every benchmark of speed and memory, one after the other: `make bench`.

    python -m benchmarks.all [--only models evaluation ...]

Each writes its file in benchmarks/results and can be run alone; together they take over two hours on 2 cores
that have nothing else to do. Then benchmarks/README.md is written from the files, and its tables of peers and
aims are shown.
"""

import argparse
import subprocess
import sys
import time

import torch

from benchmarks import aims, readme
from benchmarks.turns import ROOT

# What each measures is in its first lines. Studies of accuracy, which take hours, have other names.
BENCHMARKS = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py"))


def main() -> None:
    """Parse the command line, run, write the page, say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    took = {name: run(name, device) for name in args.only}
    subprocess.run([sys.executable, "-m", "benchmarks.readme"], cwd=ROOT, check=True)
    studies = readme.benchmarks()
    print(readme.glance(studies), aims.table(studies), sep="\n")
    for name, (seconds, status) in took.items():
        print(f"{name:12}  {seconds / 60:6.1f} min  {'done' if status == 0 else f'exit status {status}'}")
    if any(status for _, status in took.values()):
        sys.exit("bench: not all benchmarks have ended well")


def run(name: str, device: str) -> tuple[float, int]:
    """Seconds, and the exit status."""
    output = f"benchmarks/results/{name}_{device}.json"
    print(f"> {name}: {output}", flush=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", "--output", output]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    return time.perf_counter() - start, status


if __name__ == "__main__":
    main()
