"""The benchmark of rounding: every way is measured, on a small model, and the table of turns."""

import argparse

import pytest
import torch

from benchmarks import bench_rounding
from fisher_detr.model_zoo.study import Table
from tests.modeling.detectors import SMALL_BACKBONE, make_cfg


@pytest.mark.parametrize("way", bench_rounding.WAYS)
def test_a_way_is_measured(monkeypatch, way):
    calls, errors = [], bench_rounding.quantization_errors

    def recorded(weight, widths, method, rounding):
        calls.append((widths, method, rounding is not None))
        return errors(weight, widths, method, rounding=rounding)

    monkeypatch.setattr(bench_rounding, "our_config", lambda name, args: make_cfg(SMALL_BACKBONE))
    monkeypatch.setattr(bench_rounding, "quantization_errors", recorded)
    found = bench_rounding.measure("DETR", way, "cpu")
    assert found["seconds"] > 0 and found["peak_bytes"] > 2**28
    assert len(calls) > 40  # each layer, and one to warm up
    method = bench_rounding.WAYS[way]
    assert set(calls) == {(bench_rounding.WIDTHS, method, way == bench_rounding.FISHER)}


def test_moments_are_positive_definite_and_know_of_a_bias():
    weight = torch.zeros(4, 3, 2, 2)
    for has_bias in (False, True):
        moment = bench_rounding.random_moment(weight, has_bias)
        assert moment.shape == (12 + has_bias, 12 + has_bias)
        assert torch.linalg.eigvalsh(moment.double()).min() > 0


def test_table_of_turns():
    turn = {"seconds": 2.0, "peak_bytes": 2**30}
    turns = {"DETR": {way: [turn, turn | {"seconds": 4.0}] for way in bench_rounding.WAYS}}
    (table,) = bench_rounding.describe(argparse.Namespace(rounds=2), turns)["tables"]
    assert table["rows"] == [["DETR", way, 3.0, 1.0] for way in bench_rounding.WAYS]
    Table(**table)
