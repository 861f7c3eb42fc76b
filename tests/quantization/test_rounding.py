"""Models whose weights are rounded against the Fisher: what they multiply with, and what is missing."""

import pytest
import torch

from fisher_detr.quantization import (
    FisherRounding,
    layer_biases,
    pack_weights,
    quantization_error,
    quantization_errors,
    quantize_model,
    quantized_layers,
    round_weights,
)
from fisher_detr.structures import ScaleMethod
from tests.quantization.models import images, toy_detector
from tests.quantization.test_fisher_rounding import correlated, round_against_fisher, with_bias


def moments_of(layers, seed=3):
    return {name: correlated(layer.weight[0].numel(), seed=seed) for name, layer in layers.items()}


def test_a_model_multiplies_with_what_was_rounded():
    model, plain = toy_detector(), toy_detector()
    for each in (model, plain):
        quantize_model(each, bits=3, activation_bits=0, skip=["class_embed"])
    layers, moments = quantized_layers(model), moments_of(quantized_layers(model))
    head = model.class_embed.weight.clone()
    round_weights(model, moments)
    for name, layer in layers.items():
        before = plain.get_submodule(name)
        quantizer = layer.weight_quantizer
        expected = round_against_fisher(before.weight, quantizer.scale, quantizer.spec, moments[name])
        assert torch.equal(layer.weight_quantizer(layer.weight), expected)
        assert torch.equal(pack_weights(model)[name].dequantize(), expected)
        assert not torch.equal(expected, before.weight_quantizer(before.weight))
    assert torch.equal(model.class_embed.weight, head)
    output = model(images())
    round_weights(model, moments_of(layers, seed=7))  # there is nothing left to round
    assert torch.equal(model(images()), output)


def test_layers_that_lack_something_are_named():
    model = toy_detector()
    quantize_model(model, bits=3, skip=["class_embed"])
    moments = moments_of(quantized_layers(model))
    name, *others = moments
    with pytest.raises(ValueError, match=f"needs the moment of {name}$"):
        round_weights(model, {other: moments[other] for other in others})
    with pytest.raises(ValueError, match=f"{name}: moment of shape"):
        round_weights(model, moments | {name: torch.eye(2)})


def test_biases_and_scales_go_with_it():
    """As the errors say that plans are made from."""
    model, plain = toy_detector(), toy_detector()
    quantize_model(model, bits=3, scale=ScaleMethod.MSE)
    biases = layer_biases(plain)
    assert biases and biases.keys() != quantized_layers(model).keys()  # some have none
    moments = {
        name: (with_bias if name in biases else correlated)(layer.weight[0].numel())
        for name, layer in quantized_layers(model).items()
    }
    round_weights(model, moments, search_scales=True)
    for name, layer in quantized_layers(model).items():
        weight = plain.get_submodule(name).weight
        rounding = FisherRounding(weight, moments[name])
        error = quantization_error(weight, 3, ScaleMethod.FISHER, rounding=rounding)
        torch.testing.assert_close(layer.weight_quantizer(layer.weight), weight + error)
        if name in biases:
            torch.testing.assert_close(layer.bias, biases[name] + rounding.bias_shift(error))
            assert not torch.equal(layer.bias, biases[name])


def test_a_bias_must_be_the_layers_own():
    model = toy_detector()
    quantize_model(model, bits=3)
    layers, biases = quantized_layers(model), layer_biases(model)
    name = next(name for name in layers if name not in biases)
    moments = moments_of(layers) | {name: with_bias(layers[name].weight[0].numel())}
    with pytest.raises(ValueError, match=f"{name}: the moment has a bias, and the layer has none of its own"):
        round_weights(model, moments)


def test_shared_biases_belong_to_no_layer():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
    model[1].bias = model[0].bias
    assert list(layer_biases(model)) == ["2"]
    assert not layer_biases(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)))


@pytest.mark.parametrize("method", ScaleMethod)
def test_errors_of_all_widths_are_those_of_each(method):
    weight, widths = torch.randn(5, 7, generator=torch.Generator().manual_seed(4)), (2, 5, 3)
    fisher = weight.square() + 0.1
    for rounding in (None, FisherRounding(weight, correlated(7))):
        found = quantization_errors(weight, widths, method, True, fisher, rounding)
        each = [quantization_error(weight, bits, method, True, fisher, rounding) for bits in widths]
        assert all(map(torch.equal, found, each)) and found[0].norm() > found[2].norm() > found[1].norm()
