"""The comparison with transformers: same models, same images, and the table of measured turns."""

import argparse

import pytest

from benchmarks import bench_models
from fisher_detr.model_zoo.study import Table


@pytest.fixture
def arguments():
    return argparse.Namespace(size=64, batch=1, rounds=1, steps=1, device="cpu", output=None)


@pytest.mark.parametrize("implementation", [bench_models.OURS, bench_models.THEIRS])
def test_a_step_is_measured(arguments, implementation):
    """Both train DETR's 41.3 million parameters behind the frozen first stage."""
    found = bench_models.measure("DETR", implementation, arguments)
    assert len(found["seconds"]) == 1
    assert found["trainable"] == 41_299_541
    assert found["peak_bytes"] > 4 * found["trainable"]


def test_table_of_turns(arguments):
    turn = {"trainable": 2_000_000, "peak_bytes": 2**30}
    turns = {
        bench_models.OURS: [turn | {"seconds": [1.0, 3.0]}, turn | {"seconds": [2.0, 2.0]}],
        bench_models.THEIRS: [turn | {"seconds": [5.0]}, turn | {"seconds": [5.0], "peak_bytes": 2**31}],
    }
    (table,) = bench_models.describe(arguments, {"DETR": turns})["tables"]
    assert table["rows"] == [["DETR", 2.0, 5.0, 2.5, 1.0, 2.0, 2.0, 2.0]]
    Table(**table)
