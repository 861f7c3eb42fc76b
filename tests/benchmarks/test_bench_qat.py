"""Times of steps of quantization-aware training: of whole iterations, over whole intervals."""

import argparse
import sys
import time

import pytest
from detectron2.engine import HookBase, TrainerBase

from benchmarks import bench_qat


class Slow(HookBase):
    def before_step(self):
        time.sleep(0.01)

    def after_step(self):
        time.sleep(0.02)


class Steps(TrainerBase):
    def run_step(self):
        time.sleep(0.01)


@pytest.mark.parametrize("first", [True, False], ids=["clock first", "clock last"])
def test_clock_counts_what_other_hooks_do(first):
    clock, slow, trainer = bench_qat.Clock("cpu"), Slow(), Steps()
    trainer.register_hooks([clock, slow] if first else [slow, clock])
    trainer.train(0, 3)
    assert len(clock.seconds) == 3
    assert sum(clock.seconds[:2]) >= 2 * 0.04


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


def test_a_quantized_step_is_measured():
    args = argparse.Namespace(size=64, batch=1, steps=1, device="cpu")
    found = bench_qat.measure("DETR", bench_qat.Variant(True), args)
    assert len(found["seconds"]) == 1 and found["seconds"][0] > 0 and found["peak_bytes"] > 2**28


def test_table_has_times_relative_to_plain_and_to_quantized_steps():
    args = argparse.Namespace(rounds=2, steps=4, size=None, batch=None)
    turns = {
        variant.name: [{"seconds": [1.0 + i, 3.0 + i], "peak_bytes": 2**30 * (1 + i)} for _ in range(2)]
        for i, variant in enumerate(bench_qat.VARIANTS)
    }
    (table,) = bench_qat.describe(args, {"DETR": turns})["tables"]
    assert table["rows"][0] == ["plain", 2.0, 1.0, pytest.approx(2 / 3), "–", 1.0]
    assert table["rows"][1] == ["QAT", 3.0, 1.5, 1.0, "–", 2.0]
    assert table["rows"][3][:4] == ["QAT + exact, per_image, every 4", 5.0, 2.5, pytest.approx(5 / 3)]
    assert table["rows"][3][4] == pytest.approx(5 / 6), "of two steps the first has a penalty"
    assert len(table["rows"]) == len(bench_qat.VARIANTS) == 10
