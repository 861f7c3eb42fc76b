"""Offsets behind the weight quantizers, and rounding that is frozen for a whole model."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fisher_detr.quantization import (
    ActivationQuantizer,
    WeightQuantizer,
    activation_quantizers,
    bypassed,
    calibrate_activations,
    frozen_rounding,
    quantize_model,
    quantized_layers,
    weight_offsets,
)
from tests.quantization.models import images, toy_detector


def quantized(bits=3, **options):
    model = toy_detector().double()
    quantize_model(model, bits=bits, skip=["class_embed"], **options)
    calibrate_activations(model, [0.5 * images().double()])
    return model


def test_gradient_by_offsets_is_that_by_the_quantized_weights():
    """Of a float model with the quantized weights, whose activations are quantized as well."""
    model = quantized()
    layers = quantized_layers(model)
    with weight_offsets(layers) as offsets:
        loss = model(images().double()).square().sum()
        found = dict(zip(offsets, torch.autograd.grad(loss, list(offsets.values())), strict=True))
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


def test_offset_moves_what_the_layer_multiplies_with():
    model = quantized()
    before = model(images().double())
    layers = quantized_layers(model)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for layer in quantized_layers(moved).values():
            layer.weight.copy_(layer.weight_quantizer(layer.weight) + 1e-3)
    with bypassed(moved, WeightQuantizer):
        expected = moved(images().double())
    with weight_offsets(layers) as offsets:
        with torch.no_grad():
            for offset in offsets.values():
                offset.fill_(1e-3)
        torch.testing.assert_close(model(images().double()), expected)
    assert not torch.allclose(expected, before)
    assert torch.equal(model(images().double()), before)  # nothing is left


def test_offset_of_a_shared_weight_counts_all_its_uses():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[1].weight = model[0].weight
    quantize_model(model, bits=4, activation_bits=0)
    layers = quantized_layers(model)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with weight_offsets(layers) as offsets:
        (found,) = torch.autograd.grad(model(x).square().sum(), list(offsets.values()))
    weight = model[0].weight_quantizer(model[0].weight).detach().requires_grad_()
    output = (x @ weight.T + model[0].bias) @ weight.T + model[1].bias
    torch.testing.assert_close(found, torch.autograd.grad(output.square().sum(), weight)[0])
    assert list(offsets) == ["0"]


def test_nothing_is_left_behind():
    model = quantized()
    with (
        pytest.raises(ZeroDivisionError),
        weight_offsets(quantized_layers(model)),
        frozen_rounding(model),
    ):
        model(images().double())
        assert all(layer.weight_quantizer.offset is not None for layer in quantized_layers(model).values())
        assert all(quantizer.tape is not None for quantizer in activation_quantizers(model).values())
        raise ZeroDivisionError
    assert all(layer.weight_quantizer.offset is None for layer in quantized_layers(model).values())
    assert all(quantizer.tape is None for quantizer in activation_quantizers(model).values())


def difference_quotient(model, radius, freeze):
    """Change of the output over the radius, along one direction of all weights."""
    generator = torch.Generator().manual_seed(0)
    frozen = frozen_rounding(model) if freeze else contextlib.nullcontext(lambda: None)
    with weight_offsets(quantized_layers(model)) as offsets, frozen as rewind, torch.no_grad():
        before = model(images().double())
        for offset in offsets.values():
            offset.copy_(radius * torch.randn(offset.shape, generator=generator))
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


def test_quantizers_that_are_bypassed_have_nothing_to_repeat():
    model = quantized()
    with bypassed(model, ActivationQuantizer), frozen_rounding(model) as rewind:
        expected = model(images().double())
        rewind()
        assert torch.equal(model(images().double()), expected)
