"""Predictions of an arm are held against the losses that the arm is about."""

import numpy as np
import pytest
import torch

from fisher_detr.engine import PostTrainingQuantizer, Trainer, prediction_check
from fisher_detr.engine.defaults import load_config
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.plan_losses import PlanLosses
from fisher_detr.fisher import evaluate_losses
from fisher_detr.modeling import Reweighted
from fisher_detr.structures import Arm
from tests.engine.tiny_coco import make_tiny_coco, write_config

OPTIONS = ["QUANT.ENABLED", "True", "CRITICAL.TARGET", "vehicle", "CRITICAL.REWEIGHT", "50.0"]
# What is predicted is a measurement itself: on the same images it is the same.
MEASURED = ["ALLOCATION.SENSITIVITY", "measured", "QUANT.WEIGHT.SCALE", "mse"]


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    make_tiny_coco(folder / "data")
    path = write_config(folder / "tiny.yaml", folder / "data", folder / "output", name="tiny_predictions")
    cfg = load_config(str(path), [*OPTIONS, *MEASURED, "QUANT.WEIGHT.ROUNDING", "nearest"])
    torch.manual_seed(0)
    return PostTrainingQuantizer.from_config(cfg, Trainer.build_model(cfg).eval())


@pytest.mark.parametrize("arm", [Arm.FISHER_OVERALL, Arm.FISHER_CRITICAL, Arm.REWEIGHTED])
def test_a_measurement_predicts_itself(quantizer, arm, monkeypatch):
    """Where it rises: a loss that falls is predicted as zero."""
    given = []
    monkeypatch.setattr(prediction_check, "validate_prediction", lambda *args, **meta: given.append(args))
    prediction_check.validate(quantizer, arm, quantizer.samples, (2, 4))
    ((predicted, changes, *_),) = given
    assert "overall" in predicted and ("critical" in predicted) == (arm is not Arm.REWEIGHTED)
    for objective, found in predicted.items():
        np.testing.assert_allclose(found, changes[objective].mean(axis=0).clip(min=0.0), rtol=1e-5, atol=1e-9)


def test_plans_of_reweighted_losses_are_measured_by_them(quantizer):
    images, arm = quantizer.samples[:4], Arm.REWEIGHTED
    plan = PlanLosses(quantizer, arm, images).measured(quantizer.allocate(arm, 4.0))
    reweighted = Reweighted(quantizer.critical, 50.0)
    before, after = (
        evaluate_losses(image_losses(model, None, False, reweighted), [[image] for image in images])
        for model in (quantizer.model, quantizer.quantize(plan, arm).model)
    )
    rise = (after["overall"] - before["overall"]).mean()
    assert plan.meta["measured"]["overall"]["rise"] == pytest.approx(rise, rel=1e-3)
