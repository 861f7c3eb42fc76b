"""Variants run in processes of their own, by turns."""

import argparse
import subprocess

import pytest

from benchmarks import turns


def test_takes_turns(monkeypatch, tmp_path):
    (tmp_path / "program.py").write_text(
        "import json, sys\nprint('noise')\nprint(json.dumps(sys.argv[1:]))\n"
    )
    monkeypatch.setattr(turns, "ROOT", tmp_path)
    parser = argparse.ArgumentParser()
    turns.add_options(parser, size=None, batch=4, rounds=2, steps=1)
    args = parser.parse_args(["--device", "cpu"])
    found = turns.take_turns("program", {"a": ["M", "a"], "b": ["M", "b"]}, args.rounds, args)
    options = ["--batch", "4", "--steps", "1", "--device", "cpu"]
    assert found == {name: [["--only", "M", name, *options]] * 2 for name in ("a", "b")}


CONTESTANT = """
import itertools, os, sys
sys.path.append({root!r})
from benchmarks.turns import answer_turns
print("noise before the warm-up is over")
count = itertools.count(1)
answer_turns(lambda: {{"turn": next(count), "process": os.getpid(), "words": sys.argv[1:]}})
"""


@pytest.fixture
def args(monkeypatch, tmp_path):
    root = str(turns.ROOT)
    (tmp_path / "contest.py").write_text(CONTESTANT.format(root=root))
    (tmp_path / "broken.py").write_text("import sys\nprint('ready', flush=True)\ninput()\nsys.exit(3)\n")
    (tmp_path / "cold.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.setattr(turns, "ROOT", tmp_path)
    return argparse.Namespace(size=None, batch=4, steps=1, device="cpu")


def test_contestants_stay_while_others_take_their_turns(args):
    with (
        turns.Contestant("contest", ["M", "a"], args) as a,
        turns.Contestant("contest", ["M", "b"], args) as b,
    ):
        found = [contestant.take_turn() for contestant in (a, b, a, b)]
    assert [turn["turn"] for turn in found] == [1, 1, 2, 2]
    assert found[0]["process"] == found[2]["process"] != found[1]["process"]
    assert found[1]["words"] == ["--only", "M", "b", "--batch", "4", "--steps", "1", "--device", "cpu"]


def test_contestant_that_was_killed_between_turns_is_an_error(args):
    with (
        turns.Contestant("contest", ["M", "a"], args) as contestant,
        pytest.raises(subprocess.CalledProcessError, match="SIGKILL"),
    ):
        contestant._process.kill()
        contestant._process.wait()
        contestant.take_turn()


@pytest.mark.parametrize(("module", "code"), [("broken", 3), ("cold", 4)])
def test_contestant_that_ends_is_an_error(args, module, code):
    with (
        pytest.raises(subprocess.CalledProcessError, match=f"status {code}"),
        turns.Contestant(module, ["M", "a"], args) as contestant,
    ):
        contestant.take_turn()


def test_peak_memory_is_that_of_the_process():
    before = turns.peak_bytes("cpu")
    block = bytearray(300 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert turns.peak_bytes("cpu") >= max(before, 300 * 2**20)
