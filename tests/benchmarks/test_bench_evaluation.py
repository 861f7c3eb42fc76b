"""The benchmark of evaluations: that all ways compute the same, and what it writes."""

import json
import sys

import pytest

from benchmarks import bench_evaluation


def test_all_ways_have_the_same_numbers(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    words = ["bench_evaluation.py", "--images", "20", "--repeats", "1", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    bench_evaluation.main()
    found = json.loads(path.read_text())
    assert found["largest_difference"] == pytest.approx(0.0, abs=1e-6)
    names = ["pycocotools, plain", "evaluator on pycocotools", "evaluator on faster-coco-eval"]
    assert [row["evaluation"] for row in found["rows"]] == 2 * names
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert "evaluator on faster-coco-eval" in capsys.readouterr().out
