"""Plans in words, and whether what they predict holds on other images."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from fisher_detr.checkpoint import SafeCheckpointer
from fisher_detr.engine import (
    PostTrainingQuantizer,
    Trainer,
    estimation,
    explain_curve,
    explain_plan,
    load_float,
)
from fisher_detr.engine.calibration_images import held_out_images
from fisher_detr.engine.defaults import load_config
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.prediction_check import validate
from fisher_detr.engine.quantization_run import run_post_training
from fisher_detr.fisher import GradientMethod
from fisher_detr.structures import Arm, BitAllocation, SensitivityForm, SensitivityTable
from tests.engine.tiny_coco import make_tiny_coco, write_config

# Of three images torch 2.11's gradient of a 1 x 1 convolution of stride 2 and 8 channels ends the process.
OPTIONS = ["QUANT.ENABLED", "True", "CRITICAL.TARGET", "vehicle", "QUANT.CALIBRATION.NUM_IMAGES", "4"]
CRITICAL = Arm.FISHER_CRITICAL
ROUNDED, TO_NEAREST = ("QUANT.WEIGHT.ROUNDING", "fisher"), ("QUANT.WEIGHT.ROUNDING", "nearest")
LEAST_SQUARES = ("QUANT.WEIGHT.SCALE", "mse", *TO_NEAREST)  # errors that no gradient has a part in


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A config with a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("plans")
    make_tiny_coco(folder / "data")
    path = write_config(folder / "tiny.yaml", folder / "data", folder / "output", name="tiny_plans")
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(str(path)))
    SafeCheckpointer(model, str(folder)).save("weights")
    return str(path), [*OPTIONS, "MODEL.WEIGHTS", str(folder / "weights.pth")]


@pytest.fixture
def cfg_of(made, tmp_path):
    def build(*options):
        return load_config(made[0], [*made[1], "OUTPUT_DIR", str(tmp_path), *map(str, options)])

    return build


def test_a_plan_keeps_to_its_limits_and_says_why(cfg_of, tmp_path):
    text = explain_plan(
        cfg_of("ALLOCATION.FIXED", ("backbone.stem:8",), "ALLOCATION.TIES", ("q_proj+k_proj",))
    )
    plan = BitAllocation.load(tmp_path / "allocation.json")
    assert {bits for name, bits in plan.bits.items() if name.startswith("backbone.stem")} == {8}
    pairs = [(name, name.replace("q_proj", "k_proj")) for name in plan.bits if name.endswith("q_proj")]
    assert pairs and all(plan.bits[q] == plan.bits[k] for q, k in pairs)
    assert len(text.splitlines()) > len(plan.bits)
    for name, bits in plan.bits.items():
        assert any(line.split()[:2] == [name, str(bits)] for line in text.splitlines())


def test_bit_operations_are_those_of_one_image(cfg_of, tmp_path):
    explain_plan(cfg_of())
    free = BitAllocation.load(tmp_path / "allocation.json")
    quantizer = PostTrainingQuantizer.from_config(cfg_of(), load_float(cfg_of()))
    macs = quantizer.count_macs()
    work = sum(macs[name] * bits * 8 for name, bits in free.bits.items())
    explain_plan(cfg_of("ALLOCATION.MAX_BIT_OPERATIONS", 0.9 * work / 1e9))
    limited = BitAllocation.load(tmp_path / "allocation.json")
    assert sum(macs[name] * bits * 8 for name, bits in limited.bits.items()) <= 0.9 * work
    assert limited.cost >= free.cost


def test_plans_of_a_curve_can_be_measured_on_other_images(cfg_of, tmp_path):
    cfg = cfg_of("FISHER.VALIDATE_IMAGES", 3)
    explain_curve(cfg, 4, tmp_path / "pareto.json", measured=2)
    curve = json.loads((tmp_path / "pareto.json").read_text())
    assert curve["provenance"]["started_from"] == cfg.MODEL.WEIGHTS
    plans = [BitAllocation(**plan) for plan in curve["plans"]]
    measured = [plan for plan in plans if "measured" in plan.meta]
    assert measured == [plans[0], plans[-1]]
    quantizer, images = PostTrainingQuantizer.from_config(cfg, load_float(cfg)), held_out_images(cfg)
    losses = [
        image_losses(model, quantizer.sets, quantizer.settings.aux_loss)
        for model in (quantizer.model, quantizer.quantize(plans[0], CRITICAL).model)
    ]
    with torch.no_grad():
        before, after = ([of([image])["critical"].item() for image in images] for of in losses)
    rises = np.array(after) - np.array(before)
    assert len(rises) == 3
    found = plans[0].meta["measured"]["critical"]
    assert found["rise"] == pytest.approx(rises.mean(), abs=1e-4)
    assert found["standard_error"] == pytest.approx(rises.std(ddof=1) / 3**0.5, abs=1e-4)
    table = SensitivityTable.load(tmp_path / "sensitivity.json")
    terms = [
        table.terms["critical"][i, table.widths.index(plans[0].bits[x.name])]
        for i, x in enumerate(table.layers)
    ]
    assert plans[0].meta["predicted"]["critical"] == pytest.approx(sum(terms) / 2)


def test_limits_in_conflict_are_named(cfg_of):
    with pytest.raises(ValueError, match=r"work of 1000 bit operations is too small: the smallest"):
        explain_plan(cfg_of("ALLOCATION.MAX_BIT_OPERATIONS", 1e-6))


def test_the_curve_falls(cfg_of, tmp_path):
    text = explain_curve(cfg_of(), 6, tmp_path / "curve.json")
    plans = [BitAllocation(**plan) for plan in json.loads((tmp_path / "curve.json").read_text())["plans"]]
    assert 2 <= len(plans) <= 6
    assert len(text.splitlines()) == 1 + len(plans)
    assert all(
        a.size_bytes < b.size_bytes and a.cost > b.cost for a, b in zip(plans, plans[1:], strict=False)
    )
    with pytest.raises(ValueError, match="uniform predicts no cost"):
        explain_curve(cfg_of("ALLOCATION.ARM", "uniform"), 6, tmp_path / "curve.json")


@pytest.mark.parametrize("form", SensitivityForm)
def test_every_form_has_a_plan(cfg_of, tmp_path, form):
    explain_plan(cfg_of("ALLOCATION.SENSITIVITY", form, "ALLOCATION.WIDTHS", (2, 4, 8)))
    table = SensitivityTable.load(tmp_path / "sensitivity.json")
    assert table.form == form
    assert set(BitAllocation.load(tmp_path / "allocation.json").bits.values()) <= {2, 4, 8}
    assert (table.terms["critical"].sum(axis=0) > 0).all()


def test_a_measurement_that_was_cut_off_goes_on(cfg_of, tmp_path, monkeypatch):
    cfg = cfg_of("ALLOCATION.SENSITIVITY", "measured", "ALLOCATION.WIDTHS", (2, 4))
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    losses, left = image_losses(quantizer.model, quantizer.sets, aux_loss=False), [12]

    def killed(batch):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return losses(batch)

    monkeypatch.setattr(estimation, "image_losses", lambda *_: killed)
    with pytest.raises(KeyboardInterrupt):
        quantizer.sensitivity(CRITICAL)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("partial_measured*")] == ["partial_measured.0.safetensors"]
    again = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    found = again.sensitivity(CRITICAL)
    again.estimator.discard_partial()
    assert not list(tmp_path.glob("partial_*"))
    whole = PostTrainingQuantizer.from_config(cfg, load_float(cfg)).sensitivity(CRITICAL)
    np.testing.assert_array_equal(found.terms["overall"], whole.terms["overall"])


def test_a_weight_that_cannot_be_seen_is_differentiated_by_autograd(cfg_of, caplog):
    """Norms that are not folded multiply the weights of their convolutions."""
    unfolded = ("QUANT.FOLD_NORM", False, "MODEL.SMALL_RESNET.NORM", "FrozenBN")
    cfg = cfg_of(*unfolded, *TO_NEAREST)
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    found = quantizer.sensitivity(CRITICAL)
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    settings = dataclasses.replace(quantizer.fisher_settings, method=GradientMethod.SINGLE)
    quantizer.fisher_settings = settings
    expected = quantizer.sensitivity(CRITICAL)
    np.testing.assert_allclose(found.terms["critical"], expected.terms["critical"], rtol=1e-4, atol=1e-20)
    if "images are differentiated one by one" not in caplog.text:
        pytest.fail("the fall-back was not needed: take another example")
    cfg = cfg_of(*unfolded, *ROUNDED)
    with pytest.raises(
        ValueError, match="ROUNDING fisher needs the inputs of that layer: set it to nearest, or"
    ):
        PostTrainingQuantizer.from_config(cfg, load_float(cfg)).moments(CRITICAL)


def test_labels_drawn_from_the_model(cfg_of, tmp_path):
    """Those of the data have no part, and what is measured has no part in the draws."""
    tables = {}
    for labels in ("data", "model"):
        explain_plan(cfg_of("FISHER.LABELS", labels))
        tables[labels] = SensitivityTable.load(tmp_path / "sensitivity.json")
    assert not np.allclose(tables["data"].terms["overall"], tables["model"].terms["overall"], rtol=0.01)
    cfg = cfg_of("FISHER.LABELS", "model")
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    for sample in quantizer.samples:
        del sample["instances"]
    found = quantizer.sensitivity(CRITICAL).terms["overall"]
    np.testing.assert_allclose(found, tables["model"].terms["overall"], rtol=1e-5, atol=1e-18)
    measured = [
        PostTrainingQuantizer.from_config(cfg, load_float(cfg)).sensitivity(CRITICAL).terms["overall"]
        for cfg in (
            cfg_of("FISHER.LABELS", x, "ALLOCATION.SENSITIVITY", "measured", *LEAST_SQUARES)
            for x in ("data", "model")
        )
    ]
    np.testing.assert_array_equal(*measured)


@pytest.mark.parametrize("rounding", [ROUNDED, TO_NEAREST])
def test_predictions_are_checked_on_images_that_are_not_calibrated_on(cfg_of, tmp_path, rounding):
    options = (
        *rounding,
        "FISHER.VALIDATE",
        True,
        "FISHER.VALIDATE_IMAGES",
        4,
        "FISHER.VALIDATE_WIDTHS",
        (2, 4),
    )
    cfg = cfg_of(*options)
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    images = held_out_images(cfg)
    assert len(images) == 4
    assert not {x["image_id"] for x in images} & {x["image_id"] for x in quantizer.samples}
    found = validate(quantizer, CRITICAL, images, (2, 4))
    assert {(x.objective, x.bits) for x in found.agreements} == {
        (objective, bits) for objective in ("overall", "critical") for bits in (2, 4)
    }
    run_post_training(cfg, load_float(cfg))
    assert json.loads((tmp_path / "validation.json").read_text())["num_images"] == 4
    with pytest.raises(ValueError, match="has 8, QUANT.CALIBRATION.NUM_IMAGES is 8: calibrate on fewer"):
        held_out_images(cfg_of("QUANT.CALIBRATION.NUM_IMAGES", 8))


SETS = ("ALLOCATION.CRITICAL_SETS", ("vehicle", "animal"))
WEIGHTS = {"vehicle": 3.0, "animal": 1.0}


def test_one_plan_for_several_sets(cfg_of, tmp_path):
    """Each set has the sensitivities of a run of its own with the same scales; the sum serves both."""
    cfg = cfg_of(*SETS, *LEAST_SQUARES)
    explain_plan(cfg)
    plan = BitAllocation.load(tmp_path / "allocation.json")
    assert set(plan.meta["prediction"]) == {"vehicle", "animal"}
    for name in ("vehicle", "animal"):
        found = SensitivityTable.load(tmp_path / f"sensitivity_{name}.json")
        alone = cfg_of("CRITICAL.TARGET", name, *LEAST_SQUARES)
        expected = PostTrainingQuantizer.from_config(alone, load_float(alone)).sensitivity(CRITICAL)
        assert found.meta["critical_set"] == expected.meta["critical_set"]
        for term in ("overall", "cross", "critical"):
            np.testing.assert_allclose(found.terms[term], expected.terms[term], rtol=1e-5, atol=1e-18)


@pytest.mark.parametrize("rounding", ["nearest", "fisher"])
def test_scales_and_rounding_of_several_sets_are_of_their_mean(cfg_of, rounding):
    cfg = cfg_of(*SETS, "ALLOCATION.SET_WEIGHTS", tuple(WEIGHTS.values()), "QUANT.WEIGHT.ROUNDING", rounding)
    both = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    expected = {}
    for name in ("vehicle", "animal"):
        alone = cfg_of("CRITICAL.TARGET", name, "QUANT.WEIGHT.ROUNDING", rounding)
        quantizer = PostTrainingQuantizer.from_config(alone, load_float(alone))
        expected[name] = quantizer.scale_fisher(CRITICAL), quantizer.moments(CRITICAL)
    for index, found in enumerate((both.scale_fisher(CRITICAL), both.moments(CRITICAL))):
        if found is None:
            assert index == (1 if rounding == "nearest" else 0)
            continue
        for layer, values in found.items():
            parts = [weight * expected[name][index][layer] for name, weight in WEIGHTS.items()]
            mean = sum(parts) / (4 if index == 0 else 1)  # a factor of the moments is irrelevant
            torch.testing.assert_close(values, mean, rtol=1e-4, atol=1e-6 * float(mean.abs().max()))


def test_a_set_that_counts_more_loses_less(cfg_of, tmp_path):
    loss = {}
    for weights in ((1.0, 1000.0), (1000.0, 1.0)):
        explain_plan(cfg_of(*SETS, "ALLOCATION.SET_WEIGHTS", weights, "ALLOCATION.MIP_GAP", 0.0))
        loss[weights] = BitAllocation.load(tmp_path / "allocation.json").meta["prediction"]
    ratios = [of["vehicle"] / of["animal"] for of in loss.values()]
    assert ratios[0] >= ratios[1] * (1 - 1e-6)


def test_worst_case_is_no_worse_for_the_worst(cfg_of, tmp_path):
    worst = {}
    for aggregate in ("weighted_sum", "worst_case"):
        explain_plan(cfg_of(*SETS, "ALLOCATION.AGGREGATE", aggregate, "ALLOCATION.MIP_GAP", 0.0))
        plan = BitAllocation.load(tmp_path / "allocation.json")
        worst[aggregate] = max(plan.meta["prediction"].values())
    assert worst["worst_case"] <= worst["weighted_sum"] * (1 + 1e-6)


def test_a_plan_for_several_sets_is_taken_again(cfg_of, tmp_path):
    explain_plan(cfg_of(*SETS))
    path = tmp_path / "allocation.json"
    stored = ("ALLOCATION.ALLOCATION_FILE", path)
    cfg = cfg_of(*SETS, *stored)
    assert run_post_training(cfg, load_float(cfg)).allocation.bits == BitAllocation.load(path).bits
    cfg = cfg_of(*stored)
    with pytest.raises(
        ValueError, match="for the critical set animal, vehicle, and the config names vehicle,"
    ):
        run_post_training(cfg, load_float(cfg))
    cfg = cfg_of(*SETS, "ALLOCATION.SENSITIVITY_FILE", tmp_path / "sensitivity_vehicle.json")
    with pytest.raises(ValueError, match="sensitivities of one critical set, and .* names 2"):
        run_post_training(cfg, load_float(cfg))


def test_arms_to_compare_with(cfg_of):
    """HAWQ takes the scales of fisher_overall and Hessian traces; reweighted has a Fisher of its own."""
    cfg = cfg_of("CRITICAL.REWEIGHT", 3.0, *TO_NEAREST)
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    assert quantizer.sensitivity(Arm.HAWQ).form == SensitivityForm.HAWQ_TRACE
    assert quantizer.sensitivity(Arm.REWEIGHTED).form == SensitivityForm.BLOCK
    overall, hawq = quantizer.scale_fisher(Arm.FISHER_OVERALL), quantizer.scale_fisher(Arm.HAWQ)
    reweighted = quantizer.scale_fisher(Arm.REWEIGHTED)
    assert all(torch.equal(values, hawq[name]) for name, values in overall.items())
    assert not all(torch.allclose(values, reweighted[name], rtol=1e-3) for name, values in overall.items())
    same = cfg_of("CRITICAL.REWEIGHT", 1.0, *TO_NEAREST)
    same = PostTrainingQuantizer.from_config(same, load_float(same)).scale_fisher(Arm.REWEIGHTED)
    for name, values in overall.items():
        torch.testing.assert_close(values, same[name], rtol=1e-4, atol=1e-9 * float(values.max()))
    for arm in (Arm.HAWQ, Arm.REWEIGHTED):
        assert quantizer.allocate(arm, 4.0).meta["arm"] == arm
