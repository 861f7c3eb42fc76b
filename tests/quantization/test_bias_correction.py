"""Biases after correction: the mean output of every layer is that of full precision."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisher_detr.quantization import (
    ActivationQuantizer,
    BiasMode,
    WeightQuantizer,
    bypassed,
    calibrate_activations,
    correct_biases,
    fold_batch_norm,
    quantize_model,
    quantized_layers,
)
from tests.quantization.models import toy_detector

MODES = list(BiasMode)


def values(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(model, bits=3, **options):
    """A quantized model and the float model that it was."""
    reference = copy.deepcopy(model)
    quantize_model(model, bits=bits, **options)
    return model, reference


def linear_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2)).double()


class ConvNet(nn.Module):
    """A layer that is called twice, one of two groups, and one that is never called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.idle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.twice(x).relu() - self.twice(1 - x)
        return self.head(x.flatten(2).transpose(1, 2).relu())


def conv_batches():
    """Images of several sizes, one at a time."""
    return [values(1, 3, *size, seed=seed) + 0.5 for seed, size in enumerate([(8, 8), (5, 11), (12, 7)])]


def mean_outputs(model, batches):
    """Over all positions of all calls, by hooks of its own; channels are the second dimension of an image."""
    rows = {}

    def record(name):
        def hook(module, _inputs, output):
            last = output.movedim(1, -1) if isinstance(module, nn.Conv2d) else output
            rows.setdefault(name, []).append(last.reshape(-1, last.shape[-1]))

        return hook

    products = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    handles = [module.register_forward_hook(record(name)) for name, module in products.items()]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts).mean(0) for name, parts in rows.items()}


def test_by_hand_in_a_linear_net():
    """`y = W2 (W1 x + b1) + b2`: the first layer takes back `(Q1 - W1) m`, for the mean input m.

    By its own error the second then takes back `(Q2 - W2) (W1 m + b1)`: the mean input of the float model,
    which the first has restored; the same in order.
    """
    quantized, reference = pair(linear_net(), activation_bits=0)
    batches = [values(1, 5, seed=seed) + 1 for seed in range(7)]
    m = torch.cat(batches).mean(0)
    before = [layer.bias.clone() for layer in quantized]
    expected = []
    for layer, float_layer in zip(quantized, reference, strict=True):
        error = layer.weight_quantizer(layer.weight) - float_layer.weight
        expected.append(-error @ m)
        m = float_layer(m)
    own, in_order = (correct_biases(copy.deepcopy(quantized), reference, batches, mode) for mode in MODES)
    for found in (own, in_order):
        assert list(found.shifts) == ["0", "1", "2"] and not found.left_out
        for shift, by_hand in zip(found.shifts.values(), expected, strict=True):
            torch.testing.assert_close(shift, by_hand)
            assert by_hand.abs().max() > 1e-3
    correct_biases(quantized, reference, batches)
    for layer, old, shift in zip(quantized, before, expected, strict=True):
        torch.testing.assert_close(layer.bias, old + shift)
    outputs = (torch.cat([model(x) for x in batches]).mean(0) for model in (quantized, reference))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("activation_bits", [0, 4])
def test_in_order_every_mean_output_is_restored(activation_bits):
    quantized, reference = pair(ConvNet().double(), activation_bits=activation_bits)
    batches = conv_batches()
    if activation_bits:
        calibrate_activations(quantized, batches)
    expected, before = mean_outputs(reference, batches), mean_outputs(quantized, batches)
    found = correct_biases(quantized, reference, batches, BiasMode.SEQUENTIAL)
    after = mean_outputs(quantized, batches)
    assert list(found.shifts) == ["stem", "twice", "head"]
    for name, mean in expected.items():
        torch.testing.assert_close(after[name], mean, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(before[name], mean, atol=1e-3)


def test_own_error_is_the_mean_of_the_weight_error_times_the_inputs():
    quantized, reference = pair(ConvNet().double(), activation_bits=0)
    batches = conv_batches()
    found = correct_biases(quantized, reference, batches, BiasMode.OWN)
    inputs = {"stem": [], "twice": [], "head": []}
    for name, seen in inputs.items():
        reference.get_submodule(name).register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
    with torch.no_grad():
        for batch in batches:
            reference(batch)
    for name, seen in inputs.items():
        layer = reference.get_submodule(name)
        error = quantized.get_submodule(name).weight_quantizer(layer.weight) - layer.weight
        if name == "head":
            rows = [F.linear(x, error).flatten(0, -2) for x in seen]
        else:
            geometry = layer.stride, layer.padding, layer.dilation, layer.groups
            rows = [F.conv2d(x, error, None, *geometry).flatten(2)[0].T for x in seen]
        assert len(rows) == (6 if name == "twice" else 3)
        torch.testing.assert_close(found.shifts[name], -torch.cat(rows).mean(0))


def test_own_error_counts_that_of_the_input_where_it_is_quantized():
    quantized, reference = pair(nn.Sequential(nn.Linear(5, 4)).double(), activation_bits=2)
    batches = [values(6, 5).abs()]
    calibrate_activations(quantized, batches)
    without = copy.deepcopy(quantized)
    with bypassed(without, ActivationQuantizer):
        weight_only = correct_biases(without, reference, batches, BiasMode.OWN).shifts["0"]
    both = correct_biases(quantized, reference, batches, BiasMode.OWN).shifts["0"]
    assert (both - weight_only).abs().max() > 1e-2
    torch.testing.assert_close(quantized(batches[0]).mean(0), reference(batches[0]).mean(0))


@pytest.mark.parametrize("mode", MODES)
def test_a_second_time_there_is_nothing_left(mode):
    quantized, reference = pair(ConvNet().double())
    batches = conv_batches()
    calibrate_activations(quantized, batches)
    first = correct_biases(quantized, reference, batches, mode)
    second = correct_biases(quantized, reference, batches, mode)
    for name, shift in second.shifts.items():
        assert shift.abs().max() < 1e-12 < first.shifts[name].abs().max()


@pytest.mark.parametrize("mode", MODES)
def test_without_quantization_there_is_nothing_to_correct(mode):
    quantized, reference = pair(ConvNet().double())
    with bypassed(quantized, ActivationQuantizer, WeightQuantizer):
        found = correct_biases(quantized, reference, conv_batches(), mode)
    assert all(shift.abs().max() < 1e-12 for shift in found.shifts.values())


@pytest.mark.parametrize("mode", MODES)
def test_layers_without_a_bias_are_left_as_they_are(mode):
    model, batches = toy_detector(), [values(1, 3, 32, 32, seed=seed).float() for seed in range(2)]
    quantized, reference = pair(model, activation_bits=0, skip=["class_embed"])
    keys = list(quantized.state_dict())
    found = correct_biases(quantized, reference, batches, mode)
    convolutions = [name for name in quantized_layers(quantized) if name.startswith("backbone")]
    assert list(found.left_out) == convolutions and "folded" in found.left_out[convolutions[0]]
    assert set(found.shifts) == {f"attention.{part}_proj" for part in ("q", "k", "v", "out")}
    assert list(quantized.state_dict()) == keys
    folded = toy_detector()
    fold_batch_norm(folded)
    quantized, reference = pair(folded, activation_bits=0, skip=["class_embed"])
    found = correct_biases(quantized, reference, batches, mode)
    assert not found.left_out and set(found.shifts) == set(quantized_layers(quantized))


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_is_never_reached(mode):
    quantized, reference = pair(ConvNet().double(), activation_bits=0)
    found = correct_biases(quantized, reference, conv_batches(), mode)
    assert found.left_out == {"idle": "no calibration batch has reached it"}
    assert torch.equal(quantized.idle.bias, reference.idle.bias)


@pytest.mark.parametrize("mode", MODES)
def test_layers_of_one_bias_are_corrected_together(mode):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    model[2].bias = model[0].bias
    quantized, reference = pair(model, activation_bits=0)
    batches = [values(9, 3)]
    first = correct_biases(quantized, reference, batches, mode)
    assert list(first.shifts) == ["0"] and quantized[2].bias is quantized[0].bias
    if mode is BiasMode.OWN:
        second = correct_biases(quantized, reference, batches, mode)
        assert second.shifts["0"].abs().max() < 1e-12


def test_norm_and_activation_come_behind_the_corrected_bias():
    model = toy_detector()
    fold_batch_norm(model)
    quantized, reference = pair(model.double(), activation_bits=0, skip=["class_embed"])
    for each in (quantized, reference):
        each.backbone.stem.conv1.activation = torch.relu
    image = [values(1, 3, 32, 32)]
    correct_biases(quantized, reference, image)
    stems = []
    for each in (quantized, reference):
        each.backbone.stem.conv1.activation = None
        stems.append(each.backbone.stem.conv1(image[0]).mean((0, 2, 3)))
    torch.testing.assert_close(*stems)


def test_models_are_left_as_they_were():
    quantized, reference = pair(ConvNet().double(), activation_bits=0)
    quantized.train(), reference.eval()
    state = copy.deepcopy(reference.state_dict())
    calls = []

    def forward(model, batch):
        calls.append((model, model.training, torch.is_grad_enabled()))
        return model(batch)

    generator = (batch for batch in conv_batches())  # may be read once
    correct_biases(quantized, reference, generator, forward=forward)
    assert quantized.training and not reference.training
    assert [model for model, *_ in calls] == [reference] * 3 + [quantized] * 9
    assert not any(itertools.chain(*(flags for _, *flags in calls)))
    assert all(torch.equal(state[name], tensor) for name, tensor in reference.state_dict().items())
    assert not any(m._forward_pre_hooks for each in (quantized, reference) for m in each.modules())
    assert all(parameter.requires_grad for parameter in quantized.parameters())


def test_mistakes():
    quantized, reference = pair(linear_net(), activation_bits=0)
    batch = [values(1, 5)]
    with pytest.raises(ValueError, match="got no batches"):
        correct_biases(quantized, reference, [])
    with pytest.raises(ValueError, match="the reference has no layer 2: pass the float model"):
        correct_biases(quantized, reference[:2], batch)
    with pytest.raises(ValueError, match="layer 0 of the reference is quantized"):
        correct_biases(quantized, quantized, batch)
    with pytest.raises(ValueError, match="layer 0 of the reference is another one"):
        correct_biases(quantized, nn.Sequential(nn.Linear(5, 6), *reference[1:]), batch)
    with pytest.raises(ValueError, match="0: the mean output is not finite"):
        correct_biases(quantized, reference, [values(1, 5) * torch.inf])
    with pytest.raises(ValueError, match="not a valid BiasMode"):
        correct_biases(quantized, reference, batch, "all")
