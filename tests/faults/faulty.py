"""A command line of this project to which something happens on the way; as a program.

faulty.py TOOL [--at MODULE:FUNCTION:COUNT] [--within FILE:BYTES] [--rank RANK] -- <arguments of the tool>
"""

import argparse
import functools
import importlib
import io
import itertools
import os
import signal
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(target: str) -> None:
    """Kill this process at the COUNT-th call of a function, before it does anything."""
    module, names, count = target.split(":")
    *path, name = names.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    original, calls = getattr(owner, name), itertools.count(1)

    def dying(*args, **kwargs):
        if next(calls) == int(count):
            die()
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def die_within(target: str) -> None:
    """Kill this process when so many bytes of a file are on the disk, which is written beside its place."""
    wanted, _, limit = target.partition(":")
    original = os.fdopen

    class Dying(io.FileIO):
        def write(self, data):
            data = memoryview(data).cast("B")
            left = int(limit) - self.tell()
            if len(data) <= left:
                return super().write(data)
            super().write(data[:left])
            os.fsync(self.fileno())
            die()

    def fdopen(descriptor, *args, **kwargs):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name.startswith(f".{wanted}."):
            return Dying(descriptor, "wb")
        return original(descriptor, *args, **kwargs)

    os.fdopen = fdopen


def command(tool: str, *words) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), tool, *map(str, words)]


def one_line(tool: str, stderr: str) -> str:
    """The only line of a tool that ends with an error; warnings of libraries may come before."""
    assert "Traceback" not in stderr and "Exception ignored" not in stderr, stderr
    lines = [line for line in stderr.splitlines() if line.startswith(f"{tool}: ")]
    assert len(lines) == 1, stderr
    assert stderr.rstrip().endswith(lines[0])
    return lines[0]


def main() -> None:
    own, _, rest = sys.argv[1:], None, sys.argv[sys.argv.index("--") + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("--at")
    parser.add_argument("--within")
    parser.add_argument("--rank")
    args = parser.parse_args(own[: own.index("--")])
    if args.rank is None or args.rank == os.environ["RANK"]:
        if args.at:
            die_at(args.at)
        if args.within:
            die_within(args.within)
    sys.path.insert(0, str(REPOSITORY / "tools"))
    sys.argv = [args.tool, *rest]
    importlib.import_module(args.tool).main()


if __name__ == "__main__":
    main()
