"""The look at the losses, and what it says of the layer where something went wrong."""

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from torch import nn

from fisher_detr.engine import prepare
from fisher_detr.engine.finite_guard import FiniteGuard, first_broken_layer, origin
from fisher_detr.quantization import ScaleTraining
from tests.checkpoint.small_detr import make_detr
from tests.modeling.detectors import make_detector, make_input

NAN, INF = float("nan"), float("inf")


def predict(model, batch):
    return model.decode(model.preprocess(batch))


def look_at(losses):
    FiniteGuard(lambda _model, _batch: None)(nn.Identity(), (None,), losses)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_broken_loss_is_named_with_the_iteration(value):
    losses = {
        "loss_ce": torch.tensor(1.0),
        "loss_giou": torch.tensor(value),
        "loss_bbox_0": torch.tensor(value),
    }
    with EventStorage(start_iter=17), pytest.raises(FloatingPointError) as error:
        look_at(losses)
    message = str(error.value)
    assert f"at iteration 17: loss_giou = {value:g}, loss_bbox_0 = {value:g}; the layers gave" in message
    assert "; lower SOLVER.BASE_LR" in message
    assert "loss_ce" not in message
    assert "\n" not in message


def test_finite_losses_and_detections_pass():
    look_at({"loss_ce": torch.tensor(1e30), "loss_giou": torch.tensor(0.0)})
    look_at([{"instances": float("nan")}])


def test_a_sound_step_costs_one_look_and_no_second_pass(monkeypatch):
    """Each answer that Python asks for makes a GPU wait."""
    asked = []
    original = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda x: asked.append(x) or original(x))
    look_at({str(i): torch.tensor(float(i)) for i in range(18)})
    assert len(asked) == 1
    model = make_detr(NUM_CLASSES=5).train()
    passes = []
    model.register_forward_hook(FiniteGuard(lambda *_: passes.append(1)))
    model([make_input(64, 64, 2)])
    assert not passes


def broken(model, batch, iteration=3):
    """What the guard of a model says."""
    model.train().register_forward_hook(FiniteGuard(predict))
    with EventStorage(iteration), pytest.raises(FloatingPointError) as error:
        model(batch)
    return str(error.value)


def test_a_broken_parameter_is_named():
    model = make_detr(NUM_CLASSES=5)
    with torch.no_grad():
        model.bbox_embed.layers[-1].bias[2] = NAN
    message = broken(model, [make_input(64, 64, 2)])
    assert "iteration 3: loss_bbox = nan, loss_giou = nan" in message
    assert "parameter bbox_embed.layers.2.bias became so in an earlier step; lower" in message
    with torch.no_grad():
        model.query_embed.weight.fill_(INF)
    assert "parameter query_embed.weight and 1 more became so" in origin(model, lambda: None)


@pytest.mark.parametrize("variant", ["detr", "deformable", "two-stage", "dab"])
def test_a_layer_that_overflows_is_named(variant):
    """Finite weights, and an output beyond float32."""
    torch.manual_seed(0)
    model = make_detector(variant)
    layer = model.backbone.res3[1].conv1
    assert first_broken_layer(model.train(), lambda: predict(model, [make_input(128, 128, 2)])) is None
    with torch.no_grad():
        layer.weight.fill_(3e38)
    message = broken(model, [make_input(128, 128, 2), make_input(128, 96, 0)])
    assert f"; it began in backbone.res3.1.conv1 ({type(layer).__name__}); lower" in message


def test_what_goes_into_a_layer_is_named_where_no_layer_made_it():
    model = make_detr(NUM_CLASSES=5)
    batch = make_input(64, 64, 2)
    batch["image"] = batch["image"].float()
    batch["image"][0, 3, 5] = NAN
    assert "; it began in what goes into backbone (ResNet); lower" in broken(model, [batch])


class Logarithm(nn.Module):
    """Between its two layers is a function that has no value at 0; a keyword carries what comes of it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.second(input=self.first(x).log())


def test_what_a_function_between_layers_makes():
    model = Logarithm()
    with torch.no_grad():
        model.first.weight.zero_()
        model.first.bias.zero_()
    found = first_broken_layer(model, lambda: model(torch.ones(1, 2)))
    assert found == "it began in what goes into second (Linear)"


@pytest.mark.parametrize("scales", [ScaleTraining.FIXED, ScaleTraining.LSQ])
def test_what_goes_into_a_quantizer_is_looked_at(scales, monkeypatch):
    """Its output would not tell: a quantizer may turn NaN into one of its levels."""
    layer = nn.ModuleList([nn.Linear(2, 2)])
    prepare(layer, bits=4, weights=scales, activations=scales)
    quantizer = layer[0].input_quantizer
    monkeypatch.setattr(quantizer, "forward", lambda x: torch.nan_to_num(x, 0.0))
    image = torch.tensor([[NAN, 1.0]])
    for run, told in (
        (lambda: layer[0](image), "0 (QuantLinear)"),
        (lambda: layer[0].quantized_operands(image), "0.input_quantizer (ActivationQuantizer)"),
    ):
        assert first_broken_layer(layer, run) == f"it began in what goes into {told}"


def test_images_in_a_list_and_nothing_left_behind():
    model = nn.Sequential(nn.Identity())
    images = ImageList(torch.full((1, 3, 4, 4), INF), [(4, 4)])
    assert first_broken_layer(model, lambda: model({"a": [(images,)]})) == (
        "it began in what goes into the model (Sequential)"
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
