"""Phases of the scales: observed, trained, frozen; the same after a resume."""

import copy

import pytest
import torch
from torch import nn

from fisher_detr.engine import QATSchedule, prepare
from fisher_detr.engine.scale_phases import Phase, ScalePhases
from fisher_detr.quantization import (
    ActivationQuantizer,
    RangeMethod,
    ScaleTraining,
    activation_quantizers,
    bypassed,
    quantized_layers,
    unobserved,
)
from fisher_detr.quantization.scale_training import SMALLEST_SCALE

LSQ, PACT, MINMAX, FIXED = ScaleTraining.LSQ, ScaleTraining.PACT, ScaleTraining.MINMAX, ScaleTraining.FIXED


class Net(nn.Module):
    """A convolution, a batch norm, a linear layer, and one layer that no pass reaches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def make_net(weights=LSQ, activations=LSQ, bits=4):
    torch.manual_seed(0)
    model = Net()
    prepare(model, bits=bits, weights=weights, activations=activations)
    return model


def make_schedule(**options):
    return QATSchedule(**({"observe_iters": 2, "range_method": RangeMethod.MAX} | options))


def images(iteration):
    """Larger from iteration to iteration: ranges that are set early are too small later."""
    generator = torch.Generator().manual_seed(iteration)
    return (1 + iteration) * torch.randn(2, 2, 5, 5, generator=generator)


def train(model, phases, optimizer, iterations):
    model.train()
    for iteration in iterations:
        phases.enter(iteration)
        optimizer.zero_grad()
        model(images(iteration)).square().sum().backward()
        optimizer.step()
        phases.leave(iteration)


def sgd(model):
    return torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)


def scales(model):
    return {k: v.clone() for k, v in model.state_dict().items() if k.endswith((".scale", ".zero_point"))}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_phase_of_every_iteration():
    schedule = QATSchedule(observe_iters=2, freeze_ranges_iter=4)
    assert [schedule.phase(i) for i in range(6)] == [
        *[Phase.OBSERVE] * 2,
        *[Phase.QUANTIZE] * 2,
        *[Phase.FROZEN] * 2,
    ]
    assert QATSchedule().phase(0) is QATSchedule().phase(10**9) is Phase.QUANTIZE
    assert QATSchedule(observe_iters=2, freeze_ranges_iter=2).phase(2) is Phase.FROZEN


@pytest.mark.parametrize("name", ["observe_iters", "freeze_ranges_iter", "freeze_norms_iter"])
def test_negative_iterations(name):
    with pytest.raises(ValueError, match=f"{name} is -1, expected 0 or more iterations"):
        QATSchedule(**{name: -1})


def test_freezing_before_the_ranges_are_set():
    with pytest.raises(ValueError, match="freeze_ranges_iter is 1, before the last of 3 observe_iters"):
        QATSchedule(observe_iters=3, freeze_ranges_iter=1)


def test_kinds_of_training_may_be_given_by_name():
    assert QATSchedule(weights="minmax").weights is MINMAX
    with pytest.raises(ValueError, match="minmacs"):
        QATSchedule(activations="minmacs")


def test_observed_activations_pass_unquantized_and_set_the_ranges():
    model = make_net()
    expected = copy.deepcopy(model)
    seen = []
    expected.conv.input_quantizer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    phases = ScalePhases(model, make_schedule())
    model.train()
    for i in range(2):
        phases.enter(i)
        with bypassed(expected, ActivationQuantizer):
            assert torch.equal(model(images(i)), expected.train()(images(i)))
        phases.leave(i)
        assert not model.conv.input_quantizer.is_calibrated
    phases.enter(2)
    low, high = torch.cat(seen).aminmax()
    quantizer = model.conv.input_quantizer
    torch.testing.assert_close(quantizer.scale.item(), (high - low).item() / 255)
    torch.testing.assert_close(quantizer.zero_point.item(), round(-low.item() * 255 / (high - low).item()))
    with bypassed(expected, ActivationQuantizer):
        assert not torch.equal(model(images(0)), expected(images(0)))


def evaluate(model, batch):
    with torch.no_grad():
        model.eval()(batch)


def hide(model, batch):
    with unobserved(model), torch.enable_grad():
        model.train()(batch)


@pytest.mark.parametrize("other", [evaluate, hide])
def test_only_passes_of_the_training_are_observed(other):
    """An evaluation follows the step, as that of an `EvalHook` does; hidden passes come before."""
    found = []
    for disturb in (other, lambda model, batch: None):
        model = make_net()
        phases = ScalePhases(model, make_schedule())
        for i in range(3):
            phases.enter(i)
            disturb(model, 1000 * images(i))
            model.train()(images(i))
            phases.leave(i)
            recorded = str(phases.state_dict())
            disturb(model, 1000 * images(i))
            assert str(phases.state_dict()) == recorded
        found.append(scales(model))
    same(*found)


def test_what_no_pass_reaches_does_not_stop_the_training():
    model = make_net()
    train(model, ScalePhases(model, make_schedule()), sgd(model), range(4))
    assert not model.unused.input_quantizer.is_calibrated
    assert model.head.input_quantizer.is_calibrated


def test_weight_decay_does_not_spoil_scales_that_are_not_set_yet():
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=0.1)
    train(model, ScalePhases(model, make_schedule()), optimizer, range(2))
    assert not model.conv.input_quantizer.scale.any()
    assert not optimizer.state[model.conv.input_quantizer.scale]["momentum_buffer"].any()


def test_ranges_that_are_neither_there_nor_observed():
    with pytest.raises(
        RuntimeError, match=r"3 activation quantizers have no range \(conv.input_quantizer, .*OBSERVE"
    ):
        ScalePhases(make_net(), make_schedule(observe_iters=0))
    model = make_net()
    for quantizer in activation_quantizers(model).values():
        quantizer.set_range(-1, 1)
    ScalePhases(model, make_schedule(observe_iters=0))


@pytest.mark.parametrize(
    ("prepared", "scheduled", "message"),
    [
        ((FIXED, LSQ), (LSQ, LSQ), "weights='lsq'.*weights are no parameters: give the same weights"),
        ((LSQ, LSQ), (MINMAX, LSQ), "weights='minmax'.*weights are parameters"),
        ((LSQ, FIXED), (LSQ, PACT), "activations='pact'.*activations are no parameters"),
    ],
)
def test_schedule_of_another_model(prepared, scheduled, message):
    with pytest.raises(RuntimeError, match=message):
        ScalePhases(make_net(*prepared), make_schedule(weights=scheduled[0], activations=scheduled[1]))


@pytest.mark.parametrize(
    "build", [sgd, lambda m: torch.optim.AdamW(m.parameters(), 1e-2)], ids=["sgd", "adamw"]
)
@pytest.mark.parametrize(("weights", "activations"), [(LSQ, LSQ), (LSQ, PACT), (MINMAX, MINMAX)])
def test_frozen_scales_stay_though_the_optimizer_has_momentum(build, weights, activations):
    model = make_net(weights, activations)
    optimizer = build(model)
    schedule = make_schedule(weights=weights, activations=activations, freeze_ranges_iter=4)
    phases = ScalePhases(model, schedule)
    train(model, phases, optimizer, range(3))
    before = scales(model)
    train(model, phases, optimizer, [3])
    frozen, latent = scales(model), model.conv.weight.clone()
    assert any(not torch.equal(frozen[name], value) for name, value in before.items() if value.any())
    train(model, phases, optimizer, range(4, 7))
    same(scales(model), frozen)
    assert not torch.equal(model.conv.weight, latent)


def test_minmax_weights_follow_after_each_step():
    model = make_net(weights=MINMAX, bits=3)
    phases = ScalePhases(model, make_schedule(weights=MINMAX))
    optimizer = sgd(model)
    for i in range(4):
        train(model, phases, optimizer, [i])
        for layer in quantized_layers(model).values():
            largest = layer.weight.detach().flatten(1).abs().amax(1)
            torch.testing.assert_close(layer.weight_quantizer.scale, largest / 3)  # levels -3 to 3


def test_minmax_activations_follow_the_moving_average():
    model = make_net(FIXED, MINMAX)
    schedule = make_schedule(weights=FIXED, activations=MINMAX, momentum=0.25)
    phases = ScalePhases(model, schedule)
    train(model, phases, sgd(model), range(4))
    observed = torch.cat([images(0), images(1)]).aminmax()
    low, high = observed.min.item(), observed.max.item()
    # The range that the observation set, widened to a whole number of levels, is where the average starts.
    step = (high - low) / 255
    low, high = -round(-low / step) * step, (255 - round(-low / step)) * step
    for i in (2, 3):
        newest = images(i).aminmax()
        low += 0.25 * (newest.min.item() - low)
        high += 0.25 * (newest.max.item() - high)
    torch.testing.assert_close(model.conv.input_quantizer.scale.item(), (high - low) / 255, rtol=1e-5, atol=0)


def test_fixed_scales_never_move():
    model = make_net(FIXED, FIXED)
    phases = ScalePhases(model, make_schedule(weights=FIXED, activations=FIXED))
    optimizer = sgd(model)
    train(model, phases, optimizer, range(3))
    before = scales(model)
    train(model, phases, optimizer, range(3, 5))
    same(scales(model), before)


def test_frozen_norms_keep_their_statistics():
    model = make_net()
    phases = ScalePhases(model, make_schedule(freeze_norms_iter=2))
    optimizer = sgd(model)
    moved = [model.norm.running_mean.clone()]
    for i in range(4):
        train(model, phases, optimizer, [i])
        moved.append(model.norm.running_mean.clone())
    assert not torch.equal(moved[0], moved[1]) and not torch.equal(moved[1], moved[2])
    assert torch.equal(moved[2], moved[3]) and torch.equal(moved[3], moved[4])
    assert model.conv.training


def test_start_of_lsq():
    model = make_net(bits=3)
    with torch.no_grad():
        model.conv.weight[1] = 0
    ScalePhases(model, make_schedule(start_steps=True))
    expected = 2 * model.conv.weight.abs().mean((1, 2, 3)) / 3**0.5  # qmax 3
    expected[1] = 1.0
    torch.testing.assert_close(model.conv.weight_quantizer.scale.detach(), expected.detach())


def test_scales_stay_positive():
    model = make_net()
    phases = ScalePhases(model, make_schedule())
    train(model, phases, sgd(model), range(3))
    with torch.no_grad():
        model.conv.weight_quantizer.scale[0] = -1.0
    phases.leave(3)
    assert model.conv.weight_quantizer.scale[0].item() == pytest.approx(SMALLEST_SCALE)
    assert not model.unused.input_quantizer.scale.any()  # nor does a scale that is not set become one


@pytest.mark.parametrize("stop", range(1, 7))
@pytest.mark.parametrize(
    ("weights", "activations"), [(LSQ, PACT), (MINMAX, MINMAX)], ids=["learned", "minmax"]
)
def test_resumed_equals_uninterrupted(stop, weights, activations):
    """Stopped while observing, at the end of it, while quantizing, and frozen."""
    schedule = make_schedule(
        weights=weights, activations=activations, observe_iters=3, freeze_ranges_iter=5, freeze_norms_iter=4
    )
    expected = make_net(weights, activations)
    train(expected, ScalePhases(expected, schedule), sgd(expected), range(7))

    model = make_net(weights, activations)
    phases, optimizer = ScalePhases(model, schedule), sgd(model)
    train(model, phases, optimizer, range(stop))
    stored = copy.deepcopy((model.state_dict(), optimizer.state_dict(), phases.state_dict()))
    model = make_net(weights, activations)
    optimizer = sgd(model)
    model.load_state_dict(stored[0])
    optimizer.load_state_dict(stored[1])
    train(model, ScalePhases(model, schedule, stored[2]), optimizer, range(stop, 7))
    same(model.state_dict(), expected.state_dict())


def test_closed_phases_leave_the_model_unwatched():
    model = make_net()
    phases = ScalePhases(model, make_schedule())
    phases.enter(0)
    phases.close()
    assert not any(quantizer._forward_pre_hooks for quantizer in activation_quantizers(model).values())
    with pytest.raises(RuntimeError, match="not calibrated"):
        model(images(0))


def test_model_whose_quantized_layers_are_all_frozen():
    """Its head in float is trained: there is nothing to learn, and nothing to complain of."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    prepare(model, bits=4, skip=("1",))
    phases = ScalePhases(model, make_schedule())
    phases.close()
    model[0].requires_grad_(True)
    with pytest.raises(RuntimeError, match="weights are no parameters: .* freeze layers before it"):
        ScalePhases(model, make_schedule())
