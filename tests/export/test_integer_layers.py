"""Layers with integer levels against the fake-quantized ones, layer by layer on the same inputs."""

import copy

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fisher_detr.export.integer_layers import LEVELS, use_integer_layers  # noqa: E402
from fisher_detr.quantization import QuantizedLayer  # noqa: E402
from tests.export.exported import inputs, quantized  # noqa: E402


def calls(model):
    """Inputs and outputs of all quantized layers in a forward pass, by name."""
    seen = {}

    def hook(name):
        def keep(layer, args, output):
            seen.setdefault(name, (args[0].clone(), output.clone()))  # ReLU works in place

        return keep

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLayer)}
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    with torch.no_grad():
        model(inputs(2))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("options", [{}, {"fold": False}, {"per_channel": False, "fold": False}])
@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("variant", ["detr", "dab", "refined"])
def test_every_layer_gives_what_it_gave(variant, bits, options):
    model = quantized(variant, (bits,), **options)
    expected = calls(model)
    changed = copy.deepcopy(model)
    widths = use_integer_layers(changed)
    assert widths.keys() >= expected.keys()
    assert set(widths.values()) == {bits}
    for name, (x, output) in expected.items():
        layer = changed.get_submodule(name)
        assert getattr(layer, LEVELS).dtype == torch.int8
        # A convolution's bias is rounded to steps of its sums; otherwise there is float rounding alone.
        half_step = 0.5 * float(layer.bias_step.max()) if hasattr(layer, "bias_step") else 0.0
        with torch.no_grad():
            torch.testing.assert_close(
                layer(x), output, atol=1e-5 * float(output.abs().max()) + half_step, rtol=0
            )


def test_a_bias_beyond_int32_stays_a_float():
    model = copy.deepcopy(quantized("detr", (8,)))
    convolution = model.backbone.stem.conv1
    with torch.no_grad():
        convolution.weight.mul_(1e-9)
        convolution.bias.fill_(1.0)
        convolution.weight_quantizer.set_scale(convolution.weight_quantizer.scale * 1e-9)
        expected = convolution(x := torch.rand(1, 3, 32, 32))
        use_integer_layers(model)
        assert not hasattr(convolution, "bias_levels")
        torch.testing.assert_close(convolution(x), expected)
