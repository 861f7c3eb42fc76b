"""Times of steps of quantization-aware training: of whole iterations, over whole intervals."""

import argparse
import contextlib
import io
import itertools
import json
import sys
import time

import pytest
from detectron2.engine import HookBase, TrainerBase

from benchmarks import bench_qat
from benchmarks.turns import READY


class Slow(HookBase):
    def before_step(self):
        time.sleep(0.01)

    def after_step(self):
        time.sleep(0.02)


class Steps(TrainerBase):
    def run_step(self):
        time.sleep(0.01)


def test_steps_count_what_hooks_do():
    trainer = Steps()
    trainer.register_hooks([Slow()])
    seconds = list(itertools.islice(bench_qat.steps(trainer, "cpu"), 3))
    assert len(seconds) == 3 and min(seconds) >= 0.04
    assert trainer.iter == 2


def test_part_of_an_interval_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_qat.py", "--steps", "6"])
    with pytest.raises(SystemExit):
        bench_qat.main()
    assert "--steps is 6, expected whole intervals: a multiple of 4" in capsys.readouterr().err


def test_settings_of_the_allocator_are_named(monkeypatch):
    for name in bench_qat.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    assert bench_qat.allocator() == "the C library"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert bench_qat.allocator() == "the C library with GLIBC_TUNABLES=glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("index", [1, 5])
def test_a_process_measures_steps_whenever_it_is_asked(monkeypatch, capsys, index):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    monkeypatch.setattr(bench_qat, "WARMUP", 1)
    monkeypatch.setattr(bench_qat, "WARMUP_PENALTIES", 1)
    args = argparse.Namespace(size=64, batch=1, steps=4, device="cpu")
    bench_qat.compete("DETR", bench_qat.VARIANTS[index], args)
    ready, *answers = capsys.readouterr().out.splitlines()
    assert ready == READY and len(answers) == 2
    for found in map(json.loads, answers):
        assert len(found["seconds"]) == 4 and min(found["seconds"]) > 0 and found["peak_bytes"] > 2**28


def turn(*seconds):
    return {"seconds": seconds, "peak_bytes": 2**30}


def test_peers_take_turns_with_each_variant(monkeypatch):
    living, most = set(), []

    class Contestant(contextlib.nullcontext):
        def __init__(self, module, only, args):
            self.only, self.count = only, 0

        def __enter__(self):
            living.add(self.only[1])
            most.append(len(living))
            return self

        def __exit__(self, *exception):
            living.remove(self.only[1])

        def take_turn(self):
            self.count += 1
            return turn(self.count)

    monkeypatch.setattr(bench_qat, "Contestant", Contestant)
    alone, *beside = bench_qat.compare("DETR", argparse.Namespace(rounds=2))
    assert list(alone) == [bench_qat.PLAIN, bench_qat.QAT] and not living and max(most) == 3
    assert [list(turns)[2] for turns in beside] == bench_qat.PENALIZED
    last = beside[-1]
    assert last[bench_qat.PENALIZED[-1]] == [turn(1), turn(2)], "a process of its own"
    assert last[bench_qat.QAT] == [turn(17), turn(18)], "the one that was there from the beginning"


def test_ratios_are_those_of_turns_beside_each_other():
    plain, qat, penalized = bench_qat.PLAIN, bench_qat.QAT, bench_qat.PENALIZED
    # The machine is half as fast in the second round, and three times as slow while others are measured.
    alone = {plain: [turn(1, 1), turn(2, 2)], qat: [turn(1, 2), turn(2, 4)]}
    beside = {plain: [turn(3), turn(6)], qat: [turn(4.5), turn(9)]}
    found = [alone, *(beside | {variant: [turn(6, 12), turn(12, 24)]} for variant in penalized)]
    args = argparse.Namespace(rounds=2, steps=4, size=None, batch=None)
    (table,) = bench_qat.describe(args, {"DETR": found})["tables"]
    of_plain, of_qat, _, penalized, *_ = table["rows"]
    assert of_plain == ["plain", 3.0, 1.0, pytest.approx(2 / 3), "0.67 to 0.67", 1.0]
    assert of_qat == ["QAT", 4.5, 1.5, 1.0, "1.50 to 1.50", 1.0]
    assert penalized == ["QAT + exact, per_image, every 4", 13.5, 3.0, 2.0, "2.00 to 2.00", 1.0]
    assert len(table["rows"]) == len(bench_qat.VARIANTS) == 10
