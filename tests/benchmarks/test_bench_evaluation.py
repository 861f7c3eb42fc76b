"""The benchmark of evaluations: that all ways compute the same, and what it writes."""

import json
import sys

import pytest

from benchmarks import bench_evaluation
from fisher_detr.model_zoo import read_studies


def test_all_ways_have_the_same_numbers(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    words = ["bench_evaluation.py", "--images", "20", "--repeats", "1", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    bench_evaluation.main()
    (study,) = read_studies(tmp_path)
    assert study.command == f"python -m benchmarks.bench_evaluation {' '.join(words[1:])}"
    (table,) = study.tables
    names = ["pycocotools, plain", "evaluator on pycocotools", "evaluator on faster-coco-eval"]
    assert [row[:2] for row in table.rows] == [[case, name] for case in ("shared", "own") for name in names]
    assert all(row[2] > 0 for row in table.rows) and table.rows[0][3] == table.rows[3][3] == 1.0
    assert "evaluator on faster-coco-eval" in capsys.readouterr().out
    difference = float(json.loads(path.read_text())["text"][-1].split()[-2])
    assert difference == pytest.approx(0.0, abs=1e-6)
