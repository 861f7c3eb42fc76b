"""Scales that are learned or follow their values."""

import os

import pytest
import torch
from torch import distributed, nn

from fisher_detr.quantization import (
    ActivationQuantizer,
    RangeFollower,
    ScaleTraining,
    StepGradient,
    WeightQuantizer,
    activation_quantizers,
    fix_scales,
    keep_scales_positive,
    learn_scales,
    learned_scales,
    quantize_model,
    start_steps,
    unobserved,
    update_weight_scales,
)
from fisher_detr.quantization.coverage import coverage_report
from fisher_detr.quantization.scale_training import SMALLEST_SCALE
from fisher_detr.quantization.selection import weight_groups
from fisher_detr.structures import QuantSpec
from tests.quantization.models import images, toy_detector

LSQ, PACT, MINMAX, FIXED = ScaleTraining.LSQ, ScaleTraining.PACT, ScaleTraining.MINMAX, ScaleTraining.FIXED
SKIP = ["class_embed"]


class Tied(nn.Module):
    """Two layers with one weight, and a third."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.third(self.second(self.first(x)))


def tied(weights=LSQ, activations=LSQ, **options):
    torch.manual_seed(0)
    model = Tied()
    quantize_model(model, **{"bits": 4} | options)
    for quantizer in activation_quantizers(model).values():
        quantizer.set_range(-1, 2)
    learn_scales(model, weights, activations)
    return model


@pytest.mark.parametrize(
    ("weights", "activations"), [(LSQ, LSQ), (LSQ, PACT), (FIXED, PACT), (LSQ, MINMAX), (MINMAX, FIXED)]
)
def test_what_is_learned_is_a_parameter(weights, activations):
    model = tied(weights, activations)
    learned = {name for name, _ in model.named_parameters() if name.endswith(".scale")}
    expected = {f"{name}.input_quantizer.scale" for name in ("first", "second", "third")}
    expected = expected if activations in (LSQ, PACT) else set()
    if weights is LSQ:
        expected |= {"first.weight_quantizer.scale", "third.weight_quantizer.scale"}
    assert learned == expected
    assert {id(scale) for scale in learned_scales(model)} == {
        id(parameter) for name, parameter in model.named_parameters() if name in expected
    }
    assert len(list(learned_scales(model))) == len(expected)  # a shared one once
    assert model.second.weight_quantizer is model.first.weight_quantizer


@pytest.mark.parametrize("per_channel", [True, False])
def test_gradients_are_scaled_by_the_values_of_each_scale(per_channel):
    """`1 / sqrt(N qmax)` (LSQ, section 2.2); that of a bound `qmax scale` for PACT."""
    model = tied(LSQ, LSQ, per_channel=per_channel)
    weights = 4 if per_channel else 16
    batch = torch.randn(5, 3, 4)
    assert model.first.weight_quantizer._step.factor_of(batch) == pytest.approx((weights * 7) ** -0.5)
    assert model.first.input_quantizer._step.factor_of(batch) == pytest.approx((12 * 255) ** -0.5)
    assert tied(LSQ, PACT).first.input_quantizer._step.factor_of(batch) == pytest.approx(255**-2)


def test_scales_of_frozen_layers_stay_and_nothing_is_propagated_into_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    for frozen in model[:2]:
        frozen.requires_grad_(False)
    quantize_model(model, bits=4)
    learn_scales(model, LSQ, LSQ)
    for name, module in model.named_modules():
        if isinstance(module, WeightQuantizer | ActivationQuantizer):
            assert module.is_learned == name.startswith("2."), name
            module.set_scale(torch.full_like(module.scale, 0.1).detach())
    seen = []
    model[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output.requires_grad))
    model(torch.randn(5, 4)).sum().backward()
    assert seen == [False]
    assert all(scale.grad.abs().sum() > 0 for scale in learned_scales(model))


def test_frozen_layers_that_share_their_weight():
    torch.manual_seed(0)
    model = Tied()
    model.first.requires_grad_(False)
    quantize_model(model, bits=4)
    learn_scales(model, LSQ, LSQ)
    learned = {name for name, module in activation_quantizers(model).items() if module.is_learned}
    assert learned == {"third.input_quantizer"}
    assert not model.first.weight_quantizer.is_learned and model.third.weight_quantizer.is_learned


def test_start_of_lsq_leaves_frozen_layers_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    quantize_model(model, bits=4)
    update_weight_scales(model)
    before = [layer.weight_quantizer.scale.clone() for layer in model]
    start_steps(model)
    assert torch.equal(model[0].weight_quantizer.scale, before[0])
    assert not torch.equal(model[1].weight_quantizer.scale, before[1])


def test_pact_is_for_activations():
    with pytest.raises(ValueError, match="PACT learns where activations are clipped: train the weights'"):
        tied(PACT, LSQ)


def test_learned_scales_cost_no_byte():
    model = toy_detector()
    expected = quantize_model(model, bits=3, skip=SKIP)
    learn_scales(model, LSQ, PACT)
    assert coverage_report(model, weight_groups(model, SKIP)) == expected


@pytest.mark.parametrize("activations", [LSQ, PACT])
def test_fixed_scales_give_identical_outputs(activations):
    model = toy_detector()
    quantize_model(model, bits=3, skip=SKIP)
    for quantizer in activation_quantizers(model).values():
        quantizer.set_range(-1, 2)
    learn_scales(model, LSQ, activations)
    names, expected = set(model.state_dict()), model(images())
    fix_scales(model)
    assert not list(learned_scales(model)) and set(model.state_dict()) == names
    assert torch.equal(model(images()), expected)
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in toy_detector().named_parameters()
    }


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_start_of_lsq(bits, per_channel):
    model = tied(bits=bits, per_channel=per_channel)
    with torch.no_grad():
        model.first.weight[1] = 0.0  # a channel of zeros
        model.third.weight.zero_()
    start_steps(model)
    rows = model.first.weight.tolist()
    rows = rows if per_channel else [sum(rows, [])]
    qmax = 2 ** (bits - 1) - 1
    expected = [2 * sum(map(abs, row)) / len(row) / qmax**0.5 or 1.0 for row in rows]
    torch.testing.assert_close(model.first.weight_quantizer.scale.detach(), torch.tensor(expected))
    assert torch.equal(model.third.weight_quantizer.scale, torch.ones(2 if per_channel else 1))
    assert model.first.weight_quantizer.is_calibrated


@pytest.mark.parametrize("per_channel", [True, False])
def test_minmax_weights(per_channel):
    model = tied(MINMAX, FIXED, per_channel=per_channel)
    with torch.no_grad():
        model.first.weight.mul_(3)
    update_weight_scales(model)
    rows = [[abs(value) for value in row] for row in model.first.weight.tolist()]
    largest = [max(row) for row in rows] if per_channel else [max(map(max, rows))]
    torch.testing.assert_close(model.first.weight_quantizer.scale, torch.tensor(largest) / 7)


def test_scales_that_a_step_made_negative_are_lifted():
    model = tied()
    scales = list(learned_scales(model))
    with torch.no_grad():
        scales[0][0], scales[0][1], scales[-1][0] = -1.0, 0.0, 1e-12
    expected = [scale.detach().clamp(min=SMALLEST_SCALE) for scale in scales]
    keep_scales_positive(model)
    assert all(torch.equal(scale, one) for scale, one in zip(scales, expected, strict=True))
    assert model(torch.ones(2, 4)).isfinite().all()
    keep_scales_positive(tied(FIXED, FIXED))  # nothing to lift


def test_learned_scales_are_found_by_the_optimizer():
    """A scale that is far too small grows, and one that is far too large shrinks."""
    quantizer = WeightQuantizer(QuantSpec(4), 2)
    quantizer.set_scale(torch.tensor([0.01, 10.0]))
    quantizer.learn_scale(StepGradient.LSQ, 100)
    weight = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.05)
    errors = []
    for _ in range(300):
        optimizer.zero_grad()
        error = (quantizer(weight) - weight).square().mean(1)
        errors.append(error.detach())
        error.sum().backward()
        optimizer.step()
        with torch.no_grad():
            quantizer.scale.clamp_(min=SMALLEST_SCALE)
    assert (errors[-1] < 0.02).all() and (errors[0] > 0.5).all()


class Watched(nn.Module):
    """Two quantizers, one of which only some passes reach."""

    def __init__(self):
        super().__init__()
        spec = QuantSpec(8, symmetric=False, per_channel=False)
        self.always, self.sometimes = ActivationQuantizer(spec), ActivationQuantizer(spec)
        for quantizer in (self.always, self.sometimes):
            quantizer.set_range(0.0, 255.0)  # a scale of 1: the average starts at whole numbers

    def forward(self, x, both=False):
        return self.sometimes(self.always(x)) if both else self.always(x)


def assert_range(quantizer, low, high):
    """Scale and zero point of a range, widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    torch.testing.assert_close(quantizer.scale.item(), scale, rtol=1e-6, atol=0.0)
    assert quantizer.zero_point.item() == round(-low / scale)


def test_ranges_follow_a_moving_average():
    """Computed by hand from the extreme values of all passes between two updates."""
    model = Watched()
    follower = RangeFollower(model, momentum=0.25)
    model(torch.tensor([-3.0, 55.0]))
    model(torch.tensor([-1.0, 155.0]))  # two passes: -3 to 155
    assert_range(model.always, 0.0, 255.0)  # until the update
    follower.update()
    low, high = 0.25 * -3, 0.75 * 255 + 0.25 * 155
    assert_range(model.always, low, high)
    model(torch.tensor([10.0, 20.0]), both=True)
    follower.update()
    assert_range(model.always, 0.75 * low + 0.25 * 10, 0.75 * high + 0.25 * 20)
    scale = model.always.scale.item()  # what the other one saw was quantized: 10 and 20 to whole steps
    assert follower.state_dict()["sometimes"] == pytest.approx((0.25 * 10, 0.75 * 255 + 5), abs=scale)


def test_ranges_that_no_pass_reaches_stay():
    model = Watched()
    follower = RangeFollower(model, momentum=0.5)
    model(torch.tensor([1.0, 3.0]))
    follower.update()
    assert_range(model.sometimes, 0.0, 255.0)
    before = model.always.scale.clone()
    follower.update()  # nothing was seen since
    assert torch.equal(model.always.scale, before)


def test_only_passes_of_the_training_move_ranges():
    model = Watched()
    follower = RangeFollower(model, momentum=0.5)
    x = torch.tensor([-900.0, 900.0])
    with torch.no_grad():
        model(x)
    with unobserved(model):
        model(x)
    model.eval()(x)
    model.train()(torch.empty(0))
    follower.update()
    assert_range(model.always, 0.0, 255.0)
    follower.close()
    model(x)
    follower.update()
    assert_range(model.always, 0.0, 255.0)


def test_averages_go_on_from_a_state():
    """Not from the quantizers' scales, whose ranges are rounded to whole levels."""
    whole, part = Watched(), Watched()
    follower, first = RangeFollower(whole, momentum=0.3), RangeFollower(part, momentum=0.3)
    x = torch.tensor([-7.7, 3.3])
    for model, one in ((whole, follower), (part, first)):
        model(x)
        one.update()
    resumed = Watched()
    resumed.load_state_dict(part.state_dict())
    second = RangeFollower(resumed, momentum=0.3)
    second.load_state_dict(first.state_dict())
    for model, one in ((whole, follower), (resumed, second)):
        model(2 * x)
        one.update()
    assert second.state_dict() == follower.state_dict()
    assert torch.equal(resumed.always.scale, whole.always.scale)


def follow_on_a_rank(rank, folder):
    torch.set_num_threads(1)  # a fork has none of its parent's
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = Watched()
    follower = RangeFollower(model, momentum=0.5)
    model(torch.tensor([[-1.0, 30.0], [5.0, 100.0]][rank]), both=rank == 1)  # a layer that one rank reaches
    follower.update()
    torch.save(follower.state_dict(), os.path.join(folder, f"{rank}.pth"))
    distributed.destroy_process_group()


def test_ranges_are_those_of_all_ranks(tmp_path):
    torch.multiprocessing.start_processes(
        follow_on_a_rank, (str(tmp_path),), nprocs=2, start_method="fork", join=True
    )
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert first == second
    assert first["always"] == pytest.approx((0.5 * -1, 0.5 * 255 + 0.5 * 100))
    assert first["sometimes"] == pytest.approx((0.5 * 5, 0.5 * 255 + 0.5 * 100))
