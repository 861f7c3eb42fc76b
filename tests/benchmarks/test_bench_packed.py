"""The benchmark of packed models, on a small one: files of every width, and the table of turns."""

import argparse

from benchmarks import bench_packed
from fisher_detr.model_zoo.study import Table
from tests.modeling.detectors import SMALL_BACKBONE, make_cfg


def test_narrower_weights_are_smaller_files(monkeypatch):
    monkeypatch.setattr(bench_packed, "our_config", lambda name, args: make_cfg(SMALL_BACKBONE))
    rows = bench_packed.measure("DETR", rounds=2)
    (table,) = bench_packed.describe(argparse.Namespace(rounds=2), rows)["tables"]
    Table(**table)
    assert [row[1] for row in rows] == ["float32", "3 bits", "4 bits", "8 bits"]
    whole, three, four, eight = (row[2] for row in rows)
    assert three < four < eight < whole and rows[0][3] == 1.0
    assert rows[2][3] == four / whole
    assert all(seconds > 0 for row in rows for seconds in row[4:])
