"""What an evaluation leaves for a report."""

import json

import pytest
import torch

from fisher_detr.engine import PostTrainingQuantizer, Trainer, evaluate, evaluate_full_precision, load_config
from fisher_detr.engine.compare import evaluate_plan
from fisher_detr.files import sha256_of
from fisher_detr.report import find_arms
from fisher_detr.structures import Arm
from tests.engine.tiny_coco import make_tiny_coco, write_config


@pytest.fixture
def made(tmp_path):
    """A config, and a model of random weights that it loads."""
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "t.yaml", tmp_path / "data", tmp_path / "output", name=tmp_path.name)
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(str(config))).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    cfg = load_config(str(config), ["MODEL.WEIGHTS", str(tmp_path / "weights.pth"), "QUANT.ENABLED", "True"])
    return cfg, model


def read(folder, name):
    return json.loads((folder / "output" / "inference" / folder.name / name).read_text())


def test_what_was_evaluated_and_how(made, tmp_path):
    cfg, model = made
    results = evaluate(cfg, model)["bbox"]
    found = read(tmp_path, "evaluation.json")
    assert found["dataset"] == tmp_path.name and found["num_images"] == 8
    assert found["annotations"] == str(tmp_path / "data" / "annotations.json")
    assert found["image_root"] == str(tmp_path / "data")
    assert found["metrics"]["AP"] == results["AP"]
    assert found["sets"] == {"animal": [2, 5], "vehicle": [9]}
    content = json.loads((tmp_path / "data" / "annotations.json").read_text())
    for category in found["categories"]:
        assert category["objects"] == sum(x["category_id"] == category["id"] for x in content["annotations"])
        assert category["metric"] in found["metrics"]
    made_by = read(tmp_path, "provenance.json")
    assert made_by["started_from_sha256"] == sha256_of(tmp_path / "weights.pth")
    assert made_by["seed"] == 1 and "SEED: 1" in made_by["config"]
    assert made_by["environment"]["torch"] == torch.__version__


def test_a_model_in_training_is_left_as_it_was(made):
    cfg, model = made
    model.train()
    evaluate(cfg, model)
    assert all(module.training for module in model.modules())


def test_arms_have_their_size_and_work(made, tmp_path):
    cfg, model = made
    full = evaluate_full_precision(cfg, model)
    quantizer = PostTrainingQuantizer.from_config(cfg, model)
    plan = quantizer.allocate(Arm.UNIFORM, 4.0)
    result = evaluate_plan(cfg, quantizer, plan, Arm.UNIFORM, "uniform")
    first, second = find_arms([str(tmp_path / "output")])
    assert first.is_float and first.of_coverage("total_bytes") == full.size_bytes
    assert second.of_coverage("total_bytes") == result.size_bytes < full.size_bytes
    assert second.name == "uniform" and second.allocation == plan
    assert (
        "ARM: uniform" in second.provenance["config"] and "AVERAGE_BITS: 4.0" in second.provenance["config"]
    )
    assert "ENABLED: true" not in first.provenance["config"].partition("QUANT:")[2].partition("QAT:")[0]
    counted = {x["name"]: x["macs"] for x in second.coverage["products"]}
    assert all(counted[name] == macs for name, macs in quantizer.count_macs().items())
    assert first.coverage["traced_size"] == second.coverage["traced_size"] == [64, 64]
    assert first.of_coverage("bit_operations") == 32 * 32 * sum(counted.values())
    assert second.of_coverage("bit_operations") < first.of_coverage("bit_operations") / 8
