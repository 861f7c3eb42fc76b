"""The trainer's own parts: the look at the losses, and what a checkpoint holds."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from fisher_detr.engine.trainer import refuse_non_finite
from tests.checkpoint.small_detr import make_detr
from tests.modeling.detectors import make_input


def look_at(losses):
    refuse_non_finite(None, (), losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_loss_is_named_with_the_iteration(value):
    losses = {
        "loss_ce": torch.tensor(1.0),
        "loss_giou": torch.tensor(value),
        "loss_bbox_0": torch.tensor(value),
    }
    with EventStorage(start_iter=17), pytest.raises(FloatingPointError) as error:
        look_at(losses)
    message = str(error.value)
    assert f"at iteration 17: loss_giou = {value:g}, loss_bbox_0 = {value:g}; lower SOLVER.BASE_LR" in message
    assert "loss_ce" not in message
    assert "\n" not in message


def test_finite_losses_and_detections_pass():
    look_at({"loss_ce": torch.tensor(1e30), "loss_giou": torch.tensor(0.0)})
    look_at([{"instances": float("nan")}])


def test_looks_at_all_losses_at_once(monkeypatch):
    """Each answer that Python asks for makes a GPU wait."""
    asked = []
    original = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: asked.append(x) or original(x))
    look_at({str(i): torch.tensor(float(i)) for i in range(18)})
    assert len(asked) == 1


def test_hook_on_a_model_stops_before_the_backward_pass():
    model = make_detr(NUM_CLASSES=5).train()
    model.register_forward_hook(refuse_non_finite)
    model([make_input(64, 64, 2)])
    with torch.no_grad():
        model.bbox_embed.layers[-1].bias.fill_(float("nan"))
    with (
        EventStorage(3),
        pytest.raises(FloatingPointError, match="iteration 3: loss_bbox = nan, loss_giou = nan"),
    ):
        model([make_input(64, 64, 2)])
