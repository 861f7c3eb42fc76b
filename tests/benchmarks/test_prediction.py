"""The table of predictions: its rows are those of the validation, which is not made twice."""

import json

import pytest
import torch

from benchmarks import command_line, prediction
from fisher_detr.checkpoint import save_weights
from fisher_detr.engine import Trainer, load_config
from fisher_detr.model_zoo.study import Table
from tests.engine.tiny_coco import make_tiny_coco, write_config


@pytest.fixture
def settings(tmp_path):
    """Config file, and keys of a validation of a random model."""
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", "predicted")
    torch.manual_seed(3)
    save_weights(tmp_path, "tiny", Trainer.build_float_model(load_config(str(config))), {})
    (weights,) = tmp_path.glob("tiny*.pth")
    keys = ["MODEL.WEIGHTS", str(weights), "QUANT.ENABLED", "True", "QUANT.CALIBRATION.NUM_IMAGES", "4"]
    keys += ["CRITICAL.TARGET", "animal", "ALLOCATION.ARM", "fisher_critical", "FISHER.VALIDATE_IMAGES", "4"]
    keys += ["FISHER.VALIDATE_WIDTHS", "(2,4)"]
    return str(config), keys


def test_rows_are_those_of_the_validation(settings, tmp_path, monkeypatch):
    config, keys = settings
    folder, output = tmp_path / "runs", tmp_path / "prediction.json"
    words = ["prediction", config, *keys, "--folder", str(folder), "--output", str(output)]
    monkeypatch.setattr("sys.argv", words)
    prediction.main()
    found = json.loads((folder / "tiny" / "validation.json").read_text())
    (table,) = json.loads(output.read_text())["tables"]
    Table(**table)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(row["objective"], row["bits"]) for row in rows] == [
        (objective, bits) for objective in ("overall", "critical") for bits in (2, 4)
    ]
    for row, agreement in zip(rows, found["agreements"], strict=True):
        assert row["Spearman"] == agreement["correlation"] and row["ceiling"] == agreement["ceiling"]
    monkeypatch.setattr(prediction, "check_prediction", None)  # what is there is taken
    prediction.main()
    monkeypatch.setattr("sys.argv", [*words, "FISHER.VALIDATE_WIDTHS", "(2,)"])
    with pytest.raises(TypeError):  # of other settings it is made again
        prediction.main()


def test_misranked_layers_that_are_noise():
    layers = [{"within_noise": a, "place_within_noise": b} for a, b in ((1, 0), (0, 1), (0, 0), (1, 1))]
    assert prediction.of_misranked(layers) == "3 of 4"


def test_configs_come_first(capsys):
    parser = command_line.argparse.ArgumentParser()
    command_line.add_configs(parser)
    parser.add_argument("--output")
    args, *both = command_line.configs_and_keys(
        parser, ["a.yaml", "b.yaml", "--output", "o", "KEY", "c.yaml"]
    )
    assert args.output == "o" and both == [["a.yaml", "b.yaml"], ["KEY", "c.yaml"]]
    with pytest.raises(SystemExit):
        command_line.configs_and_keys(parser, ["KEY", "1"])
    assert "KEY is no config: name files (.yaml) of" in capsys.readouterr().err
