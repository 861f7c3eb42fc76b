"""Weights that are held behind their quantizers, and rounding that is frozen for a whole model."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fisher_detr.quantization import (
    ActivationQuantizer,
    ScaleTraining,
    WeightQuantizer,
    activation_quantizers,
    bypassed,
    calibrate_activations,
    frozen_rounding,
    held_weights,
    learn_scales,
    quantize_model,
    quantized_layers,
)
from tests.quantization.models import images, toy_detector


def quantized(bits=3, **options):
    model = toy_detector().double()
    quantize_model(model, bits=bits, skip=["class_embed"], **options)
    calibrate_activations(model, [0.5 * images().double()])
    return model


def test_gradient_by_held_weights_is_that_by_the_quantized_weights():
    """Of a float model with the quantized weights, whose activations are quantized as well."""
    model = quantized()
    layers = quantized_layers(model)
    with held_weights(layers) as held:
        loss = model(images().double()).square().sum()
        found = dict(zip(held.leaves, torch.autograd.grad(loss, list(held.leaves.values())), strict=True))
    leaves = {
        f"{name}.weight": layer.weight_quantizer(layer.weight).detach().requires_grad_()
        for name, layer in layers.items()
    }
    with bypassed(model, WeightQuantizer):
        loss = functional_call(model, leaves, (images().double(),)).square().sum()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    for name, gradient in zip(found, expected, strict=True):
        assert found[name].abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_held_weights_move_what_the_layer_multiplies_with():
    model = quantized()
    before = model(images().double())
    layers = quantized_layers(model)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for layer in quantized_layers(moved).values():
            layer.weight.copy_(layer.weight_quantizer(layer.weight) + 1e-3)
    with bypassed(moved, WeightQuantizer):
        expected = moved(images().double())
    with held_weights(layers) as held:
        assert torch.equal(model(images().double()), before)
        with torch.no_grad():
            for weight in held.leaves.values():
                weight += 1e-3
        torch.testing.assert_close(model(images().double()), expected)
    assert not torch.allclose(expected, before)
    assert torch.equal(model(images().double()), before)  # nothing is left


def test_held_weight_that_is_shared_counts_all_its_uses():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[1].weight = model[0].weight
    quantize_model(model, bits=4, activation_bits=0)
    layers = quantized_layers(model)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with held_weights(layers) as held:
        (found,) = torch.autograd.grad(model(x).square().sum(), list(held.leaves.values()))
    weight = model[0].weight_quantizer(model[0].weight).detach().requires_grad_()
    output = (x @ weight.T + model[0].bias) @ weight.T + model[1].bias
    torch.testing.assert_close(found, torch.autograd.grad(output.square().sum(), weight)[0])
    assert list(held.leaves) == ["0"]


def test_nothing_is_left_behind():
    model = quantized()
    with (
        pytest.raises(ZeroDivisionError),
        held_weights(quantized_layers(model)),
        frozen_rounding(model),
    ):
        model(images().double())
        assert all(layer.weight_quantizer.held is not None for layer in quantized_layers(model).values())
        assert all(quantizer.tape is not None for quantizer in activation_quantizers(model).values())
        raise ZeroDivisionError
    assert all(layer.weight_quantizer.held is None for layer in quantized_layers(model).values())
    assert all(quantizer.tape is None for quantizer in activation_quantizers(model).values())


def difference_quotient(model, radius, freeze):
    """Change of the output over the radius, along one direction of all weights."""
    generator = torch.Generator().manual_seed(0)
    frozen = frozen_rounding(model) if freeze else contextlib.nullcontext(lambda: None)
    with held_weights(quantized_layers(model)) as held, frozen as rewind, torch.no_grad():
        before = model(images().double())
        for weight in held.leaves.values():
            weight += radius * torch.randn(weight.shape, generator=generator)
        rewind()
        return (model(images().double()) - before) / radius


def test_rounding_that_is_frozen_makes_small_differences_smooth():
    """The difference quotient converges with frozen rounding and does not without."""
    model = quantized(attention_products=True)
    frozen, loose = (
        [difference_quotient(model, radius, freeze) for radius in (1e-4, 1e-7)] for freeze in (True, False)
    )
    assert (frozen[0] - frozen[1]).norm() < 0.02 * frozen[1].norm()
    assert (loose[0] - loose[1]).norm() > 0.3 * loose[0].norm()


def test_pulling_back_is_differentiating_through_the_rounding():
    """All parameters, learned scales too: what leaves and other parameters get is what a whole pass gives."""
    model = quantized()
    learn_scales(model, ScaleTraining.LSQ, ScaleTraining.PACT)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(images().double()).square().sum(), parameters)
    layers = quantized_layers(model)
    with held_weights(layers) as held:
        loss = model(images().double()).square().sum()
        of_leaves = torch.autograd.grad(loss, list(held.leaves.values()), retain_graph=True)
        direct = torch.autograd.grad(loss, parameters, allow_unused=True)
        through = held.pull_back(dict(zip(held.leaves, of_leaves, strict=True)), parameters)
    found = [[part for part in both if part is not None] for both in zip(direct, through, strict=True)]
    assert all(len(parts) == 1 for parts in found), "each has one way"
    assert sum(part is not None for part in through) == 2 * len(layers)  # weights and scales
    for (gradient,), other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-14)


def test_held_weights_of_bypassed_quantizers_are_no_alias():
    model = quantized()
    layers = quantized_layers(model)
    with bypassed(model, WeightQuantizer), held_weights(layers) as held:
        for name, layer in layers.items():
            assert torch.equal(held.leaves[name], layer.weight)
            assert held.leaves[name].data_ptr() != layer.weight.data_ptr()


def test_weights_are_held_once_at_a_time():
    model = quantized()
    layers = quantized_layers(model)
    with held_weights(layers):
        with (
            pytest.raises(RuntimeError, match="weights of .* are held already: end that block first"),
            held_weights(layers),
        ):
            pass
        assert all(layer.weight_quantizer.held is not None for layer in layers.values())


def test_nothing_is_pulled_back_of_nothing():
    model = quantized()
    parameters = list(model.parameters())
    with held_weights(quantized_layers(model)) as held:
        assert held.pull_back({}, parameters) == (None,) * len(parameters)


def test_held_weights_without_gradients_around():
    model = quantized()
    before = model(images().double())
    with torch.no_grad(), held_weights(quantized_layers(model)):
        assert torch.equal(model(images().double()), before)


def test_quantizers_that_are_bypassed_have_nothing_to_repeat():
    model = quantized()
    with bypassed(model, ActivationQuantizer), frozen_rounding(model) as rewind:
        expected = model(images().double())
        rewind()
        assert torch.equal(model(images().double()), expected)
