"""The command that measures the loss around weights."""

import json
import sys

import measure_landscape
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from fisher_detr.data import DetrDatasetMapper
from fisher_detr.engine import load_config, load_float
from fisher_detr.engine.estimation import image_losses
from tests.tools.driver import QUANTIZE

FEW = ("--images", 3, "--points", 2, "--directions", 2)


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    def measure(*words, settings=()):
        given = trained.arguments("--output", tmp_path / "landscape.json", *words)
        settings = ["OUTPUT_DIR", tmp_path, *settings]
        monkeypatch.setattr(sys, "argv", ["measure_landscape.py", *map(str, (*given, *settings))])
        measure_landscape.main()
        return json.loads((tmp_path / "landscape.json").read_text())

    return measure


@pytest.fixture
def quantized(trained, tmp_path):
    weights = ["MODEL.WEIGHTS", trained.output / "model_final.pth"]
    trained.run(*QUANTIZE, *weights, "OUTPUT_DIR", tmp_path / "ptq", "ALLOCATION.AVERAGE_BITS", 2)
    return tmp_path / "ptq"


def test_checkpoints_and_folders_of_runs(run, trained, quantized, capsys):
    checkpoint = trained.output / "model_final.pth"
    models = {"full": checkpoint, "again": checkpoint, "ptq": quantized}
    named = [word for name, path in models.items() for word in ("--model", f"{name}={path}")]
    found = run(*named, *FEW, "--plane-points", 1)
    full, again, ptq = found["models"]
    assert [model["name"] for model in found["models"]] == ["full", "again", "ptq"]
    assert full["lines"] == again["lines"] and full["planes"] == again["planes"]  # one seed, one direction
    assert full["steps"] == [-0.2, -0.1, 0.0, 0.1, 0.2]
    lines = np.array(full["lines"]["critical"])
    assert lines.shape == (2, 5) and np.array(full["planes"]["critical"]).shape == (3, 3)
    cfg = load_config(str(trained.config), ["MODEL.WEIGHTS", str(checkpoint)])
    assert full["planes"]["critical"][1][1] == pytest.approx(lines[0, 2]) == pytest.approx(lines[1, 2])
    assert ptq["lines"]["critical"][0][2] != pytest.approx(lines[0, 2], abs=1e-3)  # 2 bits
    rise = (lines[:, 4] + lines[:, 0]).mean() / 2 - lines[0, 2]
    assert full["sharpness"]["critical"]["rise"][1] == pytest.approx(rise, abs=1e-5)
    assert "ptq" in capsys.readouterr().out
    assert found["critical_set"] == "animal" == cfg.CRITICAL.TARGET


def test_at_no_step_the_loss_is_that_of_the_model(run, trained):
    checkpoint = trained.output / "model_final.pth"
    found = run(
        "--model", f"a={checkpoint}", "--images", 8, "--points", 1, "--directions", 1, "--plane-points", 0
    )
    cfg = load_config(str(trained.config), ["MODEL.WEIGHTS", str(checkpoint)])
    mapper = DetrDatasetMapper(cfg, is_train=False)
    losses = image_losses(load_float(cfg), None, cfg.ALLOCATION.AUX_LOSS)
    with torch.no_grad():
        expected = [losses([mapper(record)])["overall"].item() for record in DatasetCatalog.get("tiny")]
    assert found["models"][0]["lines"]["overall"][0][1] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["models"][0]["planes"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "checkpoint.pth"), r"measure_landscape: model 'checkpoint.pth': expected NAME=PATH"),
        (("--model", "a=none.pth"), r"measure_landscape: .*none.pth"),
        (("--model", "a=none.pth", "--radius", -1), r"measure_landscape: "),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        run(*words)
    assert not (tmp_path / "landscape.json").exists()
