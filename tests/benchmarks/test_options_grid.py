"""The grid of options on a few images: what it measures, on which images, and the file it leaves."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog

from benchmarks import options_grid
from fisher_detr.checkpoint import save_weights
from fisher_detr.engine import Trainer, load_config, read_config
from fisher_detr.engine.calibration_images import calibration_images
from fisher_detr.model_zoo.study import Table
from tests.conftest import REPOSITORY
from tests.engine.tiny_coco import make_tiny_coco, write_config


@pytest.fixture
def words(tmp_path):
    """Command line of a grid of two options on a random model; half of the images are calibrated on."""
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", tmp_path.name)
    torch.manual_seed(3)
    save_weights(tmp_path, "tiny", Trainer.build_float_model(load_config(str(config))), {})
    (weights,) = tmp_path.glob("tiny*.pth")
    keys = ["MODEL.WEIGHTS", str(weights), "QUANT.ENABLED", "True", "QUANT.CALIBRATION.NUM_IMAGES", "4"]
    keys += ["CRITICAL.TARGET", "animal", "ALLOCATION.ARM", "fisher_critical"]
    options = ["--options", "default", "scale mse", "--widths", "2", "4", "--resamples", "20"]
    return ["options_grid", str(config), *keys, *options, "--folder", str(tmp_path / "runs")]


def test_a_row_for_every_option(words, tmp_path, monkeypatch):
    output = tmp_path / "options.json"
    monkeypatch.setattr("sys.argv", [*words, "--output", str(output), "--held-out", "3"])
    options_grid.main()
    content = json.loads(output.read_text())
    (table,) = content["tables"]
    Table(**table)
    default, other = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    assert [default["option"], other["option"]] == ["default", "scale mse"]
    assert {default[f"gain, {bits} bits"] for bits in (2, 4)} == {""}
    assert other["gain, 4 bits"].endswith("]")
    assert "QUANT.WEIGHT.SCALE" in content["text"][0]
    kept = tmp_path / "runs" / "tiny" / "scale mse" / "results" / "4.json"
    assert json.loads(kept.read_text())["result"]["metrics"]["AP"] == other["AP, 4 bits"]
    monkeypatch.setattr(options_grid, "evaluate_arms", None)  # what is known is taken
    options_grid.main()


def test_held_out_images_are_not_calibrated_on(words, tmp_path):
    config, keys = words[1], words[2:12]
    cfg = load_config(config, keys)
    held_out = load_config(config, [*keys, *options_grid.held_out(cfg, 3, tmp_path)])
    (name,) = held_out.DATASETS.TEST
    tested = {record["image_id"] for record in DatasetCatalog.get(name)}
    assert len(tested) == 3 and tested.isdisjoint(x["image_id"] for x in calibration_images(held_out))
    assert options_grid.held_out(cfg, 0, tmp_path) == []


def test_options_are_known_to_the_config():
    for keys in options_grid.OPTIONS.values():
        read_config(str(REPOSITORY / "configs" / "street" / "detr_small_ptq.yaml"), keys)
