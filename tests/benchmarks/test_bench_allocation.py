"""The benchmark of the integer program, on a few small layers."""

import argparse
import json
import sys

import pytest

from benchmarks import bench_allocation
from fisher_detr.model_zoo.study import read_studies
from fisher_detr.structures import LayerInfo


@pytest.fixture
def few_layers(monkeypatch):
    layers = tuple(LayerInfo(f"l{i}", 1000 * (i + 1), 8) for i in range(6))
    macs = {layer.name: 100 * layer.numel for layer in layers}
    monkeypatch.setattr(bench_allocation, "model_layers", lambda size: (layers, macs))
    return layers, macs


def test_every_kind_is_measured(few_layers, tmp_path, monkeypatch, capsys):
    output = tmp_path / "results" / "allocation.json"
    monkeypatch.setattr(sys, "argv", ["bench_allocation.py", "--seeds", "2", "--output", str(output)])
    bench_allocation.main()
    (table,) = json.loads(output.read_text())["tables"]
    assert [row[0] for row in table["rows"]] == [*bench_allocation.KINDS]
    assert all(0.0 <= gap <= 1.0 and 0.0 < median <= most for _, median, most, gap in table["rows"])
    assert json.loads(capsys.readouterr().out) == [table]
    assert len(read_studies(tmp_path / "results")) == 1


def test_three_limits_hold(few_layers):
    layers, macs = few_layers
    args = argparse.Namespace(gap=1e-3)
    (plan,) = bench_allocation.three_limits(bench_allocation.np.random.default_rng(0), layers, macs, args)
    assert [limit["name"] for limit in plan.meta["constraints"]] == ["budget", "work", "latency"]
    assert all(limit["used"] <= limit["limit"] * (1 + 1e-9) for limit in plan.meta["constraints"])


def test_layers_are_those_of_detr_r101():
    """The backbone has a stem, 33 blocks of 3 convolutions and 4 shortcuts."""
    layers, macs = bench_allocation.model_layers(64)
    assert sum(layer.name.startswith("backbone") for layer in layers) == 1 + 3 * 33 + 4
    assert [*macs] == [layer.name for layer in layers]
    stem = next(iter(macs.values()))
    assert stem == 64 * 32 * 32 * 3 * 7 * 7
