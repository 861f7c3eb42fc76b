"""The arms: each uses the Fisher information of its own objective, and what is stored is checked."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from fisher_detr.critical import resolve_category_set
from fisher_detr.engine import (
    PostTrainingQuantizer,
    Trainer,
    evaluate_arms,
    evaluate_full_precision,
    evaluate_nearest,
)
from fisher_detr.engine.defaults import load_config
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.quantization_run import run_post_training
from fisher_detr.fisher import GradientMethod, PassSettings, estimate_fisher
from fisher_detr.modeling import LabelSource, critical_losses
from fisher_detr.modeling.targets import targets_of
from fisher_detr.quantization import layer_biases, quantization_error, quantized_layers
from fisher_detr.structures import NEAREST, Arm, BitAllocation, Objective, ScaleMethod, SensitivityTable
from tests.engine.tiny_coco import make_tiny_coco, write_config


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """Aims at "vehicle": the one category beside "animal" is its own maximum, and L_F would be L_A."""
    folder = tmp_path_factory.mktemp("arms")
    make_tiny_coco(folder / "data")
    path = write_config(folder / "tiny.yaml", folder / "data", folder / "output", name="tiny_arms")
    return load_config(str(path), ["QUANT.ENABLED", "True", "CRITICAL.TARGET", "vehicle"])


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    return Trainer.build_model(cfg).eval()


@pytest.fixture
def quantizer(cfg, model):
    return PostTrainingQuantizer.from_config(cfg, model)


@pytest.fixture
def to_nearest(cfg, model):
    """A quantizer that rounds to nearest: the diagonal weighs its scales."""
    cfg = cfg.clone()
    cfg.QUANT.WEIGHT.ROUNDING = "nearest"
    return PostTrainingQuantizer.from_config(cfg, model)


def test_losses_of_an_image_are_the_two_objectives(quantizer):
    model, sample = quantizer.model, quantizer.samples[-1]
    found = image_losses(model, quantizer.critical)([sample])
    predictions = model.decode(model.preprocess([sample]))
    targets = targets_of([sample], model.device, torch.float32)
    overall = sum(model.criterion(predictions, targets).values())
    critical = sum(critical_losses(model.criterion, predictions, targets, quantizer.critical).values())
    torch.testing.assert_close(found["overall"], overall[None])
    torch.testing.assert_close(found["critical"], critical[None])
    assert not torch.isclose(overall, critical)


def test_without_aux_loss_the_last_decoder_layer_counts(quantizer):
    model, sample = quantizer.model, quantizer.samples[-1]
    found = image_losses(model, quantizer.critical, aux_loss=False)([sample])
    for name, category_set in (("overall", None), ("critical", quantizer.critical)):
        losses = model.losses([sample], category_set)
        last = [losses[term] for term in ("loss_ce", "loss_bbox", "loss_giou")]
        torch.testing.assert_close(found[name], sum(last)[None])
        assert len(losses) > len(last)


@pytest.mark.parametrize("aux_loss", [False, True])
def test_sensitivities_are_those_of_the_chosen_losses(cfg, model, aux_loss):
    cfg = cfg.clone()
    cfg.ALLOCATION.AUX_LOSS = aux_loss
    quantizer = PostTrainingQuantizer.from_config(cfg, model)
    expected = estimate_fisher(
        image_losses(quantizer.model, quantizer.critical, aux_loss),
        quantizer.weights,
        [[sample] for sample in quantizer.samples],
        PassSettings(GradientMethod.SINGLE),
    )
    np.testing.assert_allclose(
        quantizer.sensitivity(Arm.FISHER_CRITICAL).traces["critical"], expected.traces["critical"], rtol=1e-4
    )


def test_every_arm_weighs_its_scales_by_its_own_objective(to_nearest):
    fisher = estimate_fisher(
        image_losses(to_nearest.model, to_nearest.critical, to_nearest.settings.aux_loss),
        to_nearest.weights,
        [[sample] for sample in to_nearest.samples],
        PassSettings(GradientMethod.SINGLE),
    )
    alone, both = fisher.combined(Objective(1.0, 0.0)), fisher.combined(to_nearest.settings.objective)
    for arm, expected in ((Arm.UNIFORM, alone), (Arm.FISHER_OVERALL, alone), (Arm.FISHER_CRITICAL, both)):
        found = to_nearest.scale_fisher(arm)
        # An overall factor is irrelevant to the scales.
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values)
    assert not all(torch.allclose(alone[n] / alone[n].sum(), both[n] / both[n].sum()) for n in alone)


def test_block_sensitivity_is_that_of_the_actual_error(to_nearest):
    """One entry of the table by hand: E[(g'd)^2] over the calibration images."""
    table = to_nearest.sensitivity(Arm.FISHER_CRITICAL)
    row, column = 3, 1
    name, bits = table.layers[row].name, table.widths[column]
    weight, importance = to_nearest.weights[name], to_nearest.scale_fisher(Arm.FISHER_CRITICAL)[name]
    error = quantization_error(weight, bits, ScaleMethod.FISHER, True, importance)
    losses = image_losses(to_nearest.model, to_nearest.critical, to_nearest.settings.aux_loss)
    for objective in ("overall", "critical"):
        projections = [
            float((torch.autograd.grad(losses([sample])[objective].sum(), weight)[0] * error).double().sum())
            for sample in to_nearest.samples
        ]
        expected = np.mean(np.square(projections))
        assert table.terms[objective][row, column] == pytest.approx(expected, rel=1e-3)


def test_arms_have_the_same_budget_and_the_float_model_stays(quantizer):
    before = {name: weight.clone() for name, weight in quantizer.weights.items()}
    plans = [quantizer.allocate(arm, 4.0) for arm in Arm]
    assert len({plan.budget_bytes for plan in plans}) == 1
    assert all(plan.size_bytes <= plan.budget_bytes for plan in plans)
    quantized = quantizer.quantize(plans[-1], Arm.FISHER_CRITICAL)
    assert quantized.coverage.quantized_bytes == plans[-1].size_bytes
    for name, weight in quantizer.weights.items():
        assert torch.equal(weight, before[name])


def test_fisher_critical_needs_a_set(cfg, model):
    other = cfg.clone()
    other.CRITICAL.TARGET = ""
    with pytest.raises(ValueError, match=r"CRITICAL.TARGET"):
        PostTrainingQuantizer.from_config(other, model).allocate(Arm.FISHER_CRITICAL, 4.0)


@pytest.mark.parametrize("arm", [Arm.FISHER_CRITICAL, Arm.REWEIGHTED])
def test_calibration_images_without_an_object_of_the_set(quantizer, arm):
    """Arms that know no set do not mind."""
    for sample in quantizer.samples:
        boxes = sample["instances"]
        sample["instances"] = boxes[boxes.gt_classes != quantizer.critical.indices[0]]
    count = len(quantizer.samples)
    with pytest.raises(ValueError, match=f"'vehicle' has no object in the {count} calibration images: raise"):
        quantizer.sensitivity(arm)
    quantizer.sensitivity(Arm.FISHER_OVERALL)
    drawn = dataclasses.replace(quantizer.fisher_settings, labels=LabelSource.MODEL)
    again = PostTrainingQuantizer(
        quantizer.model, quantizer.samples, quantizer.settings, quantizer.critical, fisher_settings=drawn
    )
    again.sensitivity(arm)


def test_a_given_set_takes_the_place_of_the_target(cfg, model):
    animal = resolve_category_set("animal", MetadataCatalog.get("tiny_arms"))
    assert PostTrainingQuantizer.from_config(cfg, model, animal).critical == animal


def test_a_stored_table_gives_the_same_plan(quantizer, tmp_path):
    quantizer.sensitivity(Arm.FISHER_CRITICAL).save(tmp_path / "table.json")
    stored = SensitivityTable.load(tmp_path / "table.json")
    expected = quantizer.allocate(Arm.FISHER_CRITICAL, 4.0)
    doubled = {term: 2 * values for term, values in stored.terms.items()}
    quantizer.take_sensitivity(Arm.FISHER_CRITICAL, dataclasses.replace(stored, terms=doubled))
    plan = quantizer.allocate(Arm.FISHER_CRITICAL, 4.0)
    assert plan.bits == expected.bits
    assert plan.cost == pytest.approx(2 * expected.cost)


def test_a_stored_table_is_held_to_the_candidate_widths(quantizer):
    table = quantizer.sensitivity(Arm.FISHER_CRITICAL)
    assert 4 in quantizer.allocate(Arm.FISHER_CRITICAL, 4.0).bits.values()
    quantizer.settings = dataclasses.replace(quantizer.settings, widths=(2, 8))
    quantizer.take_sensitivity(Arm.FISHER_CRITICAL, table)
    assert set(quantizer.allocate(Arm.FISHER_CRITICAL, 4.0).bits.values()) == {2, 8}


@pytest.mark.parametrize("rounding", ["nearest", "fisher_weights", "fisher"])
def test_errors_of_the_plan_are_those_of_the_quantized_model(cfg, model, rounding):
    """The sensitivities were of the errors that the model then has, to the last bit."""
    cfg = cfg.clone()
    cfg.QUANT.WEIGHT.ROUNDING = rounding
    quantizer = PostTrainingQuantizer.from_config(cfg, model)
    arm = Arm.FISHER_CRITICAL
    plan = quantizer.allocate(arm, 4.0)
    layers = quantized_layers(quantizer.quantize(plan, arm).model)
    error = quantizer.error_fn(arm)
    differing, biases = [], layer_biases(quantizer.model)
    for name, layer in layers.items():
        weight = quantizer.weights[name]
        found = layer.weight_quantizer(layer.weight).detach()
        expected = error(name, plan.bits[name])
        assert torch.equal(found - weight, expected.weight)
        assert (expected.bias is not None) == (rounding == "fisher" and name in biases)
        if expected.bias is not None:
            assert torch.equal(layer.bias, biases[name] + expected.bias)
        nearest = layer.weight_quantizer(weight).detach()
        differing.append(not torch.equal(found, nearest))
    assert any(differing) == (rounding != "nearest")


def test_a_table_of_another_question_is_refused(quantizer):
    table = quantizer.sensitivity(Arm.FISHER_OVERALL)
    with pytest.raises(ValueError, match="objective"):
        quantizer.take_sensitivity(Arm.FISHER_CRITICAL, table)
    other = dataclasses.replace(table, meta={**table.meta, "critical_set": {"indices": [0, 1]}})
    with pytest.raises(ValueError, match="critical set"):
        quantizer.take_sensitivity(Arm.FISHER_OVERALL, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"arm": "uniform"}}, "is of arm uniform"),
        ({"size_bytes": 1}, "says 1 bytes"),
        (
            {"meta": {"sensitivity": {"critical_set": {"name": "animal", "indices": [0, 1]}}}},
            "critical set animal, and the config names vehicle",
        ),
    ],
)
def test_a_plan_that_is_not_what_it_is_called_is_refused(cfg, model, quantizer, tmp_path, change, message):
    plan = quantizer.allocate(Arm.FISHER_CRITICAL, 4.0)
    dataclasses.replace(plan, **change).save(tmp_path / "plan.json")
    assert BitAllocation.load(tmp_path / "plan.json")
    other = cfg.clone()
    other.ALLOCATION.ALLOCATION_FILE = str(tmp_path / "plan.json")
    other.OUTPUT_DIR = str(tmp_path)
    with pytest.raises(ValueError, match=message):
        run_post_training(other, model)


def test_the_baseline_knows_no_fisher_information(cfg, model, tmp_path):
    """It is the uniform arm with least-squares scales and rounding to nearest, whatever the config says."""
    other = cfg.clone()
    other.OUTPUT_DIR = str(tmp_path)
    found = evaluate_nearest(other, copy.deepcopy(model), 4.0)
    other.QUANT.WEIGHT.SCALE, other.QUANT.WEIGHT.ROUNDING = "mse", "nearest"
    quantizer = PostTrainingQuantizer.from_config(other, copy.deepcopy(model))
    expected = evaluate_arms(other, quantizer, [Arm.UNIFORM], 4.0)[0]
    assert found.name == NEAREST != expected.name
    np.testing.assert_equal(found.metrics, expected.metrics)
    assert found.size_bytes == expected.size_bytes
    boxes = [json.loads(Path(x.folder, "coco_instances_results.json").read_text()) for x in (found, expected)]
    assert boxes[0] == boxes[1]


def test_arms_side_by_side(cfg, model, tmp_path):
    other = cfg.clone()
    other.OUTPUT_DIR = str(tmp_path)
    numel = sum(tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    full = evaluate_full_precision(other, model)
    results = evaluate_arms(other, PostTrainingQuantizer.from_config(other, model), list(Arm), 4.0)
    assert [result.name for result in results] == list(Arm)
    assert len({result.folder for result in [full, *results]}) == 1 + len(Arm)
    assert full.size_bytes == 4 * numel
    for result in results:
        assert result.size_bytes < full.size_bytes / 2
        assert "APcrit_animal" in result.metrics
        with open(f"{result.folder}/allocation.json") as file:
            assert json.load(file)["bits"] == dict(result.allocation.bits)
