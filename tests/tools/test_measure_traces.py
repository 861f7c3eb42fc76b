"""The command that measures the Fisher traces of categories."""

import json
import sys

import measure_traces
import numpy as np
import pytest

from fisher_detr.engine import PostTrainingQuantizer, category_traces, load_config, load_float


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    weights = ["MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", tmp_path]

    def measure(*words):
        given = trained.arguments("--output", tmp_path / "traces.json", *weights, *words)
        monkeypatch.setattr(sys, "argv", ["measure_traces.py", *map(str, given)])
        measure_traces.main()
        return json.loads((tmp_path / "traces.json").read_text())

    return measure


def test_every_set_and_category_has_its_trace(run, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(category_traces, "TOGETHER", 2)  # so that objectives come from several passes
    found = run()
    names = [(x["kind"], x["name"], x["categories"]) for x in found["objectives"]]
    assert names == [
        ("overall", "overall", [2, 5, 9]),
        ("set", "animal", [2, 5]),
        ("set", "vehicle", [9]),
        ("category", "cat", [2]),
        ("category", "dog", [5]),
        ("category", "car", [9]),
    ]
    assert found["num_images"] == 4
    for target, place in (("animal", 1), ("dog", 4)):
        settings = ["MODEL.WEIGHTS", trained.output / "model_final.pth", "CRITICAL.TARGET", target]
        cfg = load_config(str(trained.config), [str(word) for word in (*settings, "OUTPUT_DIR", tmp_path)])
        of_images = PostTrainingQuantizer.from_config(cfg, load_float(cfg)).estimator.fisher.image_traces
        for term, i in (("critical", place), ("overall", 0)):
            traces = of_images[term].sum(axis=1)
            assert found["objectives"][i]["trace"] == pytest.approx(traces.mean(), rel=1e-4)
            error = traces.std(ddof=1) / np.sqrt(4)
            assert found["objectives"][i]["standard_error"] == pytest.approx(error, rel=1e-4)
    assert "category  dog" in capsys.readouterr().out
    assert not list(tmp_path.glob("partial*"))


def test_one_image_has_no_standard_error(run):
    found = run("QUANT.CALIBRATION.NUM_IMAGES", 1)
    assert {x["standard_error"] for x in found["objectives"]} == {None}


def test_mistakes_are_one_line(run, tmp_path):
    with pytest.raises(SystemExit, match=r"measure_traces: .*none.pth"):
        run("MODEL.WEIGHTS", tmp_path / "none.pth")
    assert not (tmp_path / "traces.json").exists()
