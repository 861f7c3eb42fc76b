"""Variants run in processes of their own, by turns."""

import argparse

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


def test_peak_memory_is_that_of_the_process():
    before = turns.peak_bytes("cpu")
    block = bytearray(300 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert turns.peak_bytes("cpu") >= max(before, 300 * 2**20)
