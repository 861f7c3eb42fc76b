"""The command that times layers, and that the allocator takes its table."""

import sys

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import measure_latency  # noqa: E402

from fisher_detr.allocation import load_latency_table  # noqa: E402
from fisher_detr.engine import PostTrainingQuantizer, load_config, load_float  # noqa: E402
from fisher_detr.structures import Arm  # noqa: E402
from tests.tools.driver import QUANTIZE  # noqa: E402


def test_a_plan_keeps_to_a_measured_latency(trained, tmp_path, monkeypatch, capsys):
    path, weights = tmp_path / "latency.json", ["MODEL.WEIGHTS", trained.output / "model_final.pth"]
    settings = [*QUANTIZE, *weights, "OUTPUT_DIR", tmp_path, "ALLOCATION.WIDTHS", (2, 3, 4, 8)]
    words = trained.arguments("--output", path, "--runs", 3, *settings)
    monkeypatch.setattr(sys, "argv", ["measure_latency.py", *map(str, words)])
    measure_latency.main()
    table = load_latency_table(path)
    assert f"{len(table)} layers take together" in capsys.readouterr().out
    assert all(list(times) == [2, 3, 4, 8] and min(times.values()) > 0 for times in table.values())
    assert all(times[3] == times[4] for times in table.values())  # one container
    limit = sum(times[4] for times in table.values())  # which a uniform width keeps
    limits = ["ALLOCATION.LATENCY_TABLE", path, "ALLOCATION.MAX_LATENCY", limit]
    cfg = load_config(str(trained.config), [str(word) for word in (*settings, *limits)])
    plan = PostTrainingQuantizer.from_config(cfg, load_float(cfg)).allocate(Arm.FISHER_OVERALL, 4.0)
    assert sum(table[layer][bits] for layer, bits in plan.bits.items()) <= limit * (1 + 1e-9)


def test_mistakes_are_one_line(trained, tmp_path, monkeypatch):
    words = trained.arguments("--output", tmp_path / "a.json", "MODEL.WEIGHTS", tmp_path / "none.pth")
    monkeypatch.setattr(sys, "argv", ["measure_latency.py", *map(str, words), "OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"measure_latency: .*none.pth"):
        measure_latency.main()
    assert not (tmp_path / "a.json").exists()
