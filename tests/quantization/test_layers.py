"""Quantized layers: the semantics of the float layer on quantized operands."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from torch import nn
from torch.nn import functional as F

from fisher_detr.layers.attention import AttentionProducts
from fisher_detr.quantization import QuantAttentionProducts, QuantConv2d, QuantLinear
from fisher_detr.structures import QuantSpec
from tests.quantization.models import randomize_norm
from tests.quantization.test_primitives import naive_fake_quantize

INPUT_SPEC = QuantSpec(8, symmetric=False, per_channel=False)


def calibrated(layer, x):
    layer.weight_quantizer.calibrate(layer.weight)
    if layer.input_quantizer is not None:
        layer.input_quantizer.set_range(x.min().item() * 0.7, x.max().item() * 0.7)  # some values saturate
    return layer


def naive_operands(layer, x):
    """Input and weight by Python loops in float64."""
    weight = layer.weight_quantizer
    w = naive_fake_quantize(
        layer.weight.detach().double(), weight.scale.double(), weight.zero_point, weight.spec
    )
    if layer.input_quantizer is None:
        return x.double(), w
    quantizer = layer.input_quantizer
    flat = x.double().reshape(1, -1)
    return naive_fake_quantize(flat, quantizer.scale.double(), quantizer.zero_point, INPUT_SPEC).view(
        x.shape
    ), w


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "dilated": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "grouped": lambda: nn.Conv2d(4, 8, (1, 3), groups=2, padding=(0, 1)),
    "same": lambda: nn.Conv2d(4, 6, 3, padding="same"),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "detectron2": lambda: Conv2d(4, 6, 3, padding=1, norm=FrozenBatchNorm2d(6), activation=F.relu),
    "detectron2 reflect": lambda: Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "group norm": lambda: Conv2d(4, 32, 1, norm=get_norm("GN", 32), activation=torch.tanh),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bits", [2, 5])
@pytest.mark.parametrize("per_channel", [True, False])
def test_convolution_keeps_its_semantics(name, bits, per_channel):
    torch.manual_seed(0)
    module = CONVOLUTIONS[name]()
    randomize_norm(getattr(module, "norm", None))
    x = torch.randn(2, 4, 9, 11)
    reference = CONVOLUTIONS[name]().double()
    reference.load_state_dict(module.state_dict())
    layer = calibrated(
        QuantConv2d.from_float(module, QuantSpec(bits, per_channel=per_channel), INPUT_SPEC), x
    )
    assert layer is module
    inputs, reference.weight.data = naive_operands(layer, x)
    torch.testing.assert_close(layer(x).double(), reference(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("input_spec", [INPUT_SPEC, None])
def test_linear_equals_naive_loop(bits, input_spec):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6)
    layer = calibrated(QuantLinear.from_float(nn.Linear(6, 4), QuantSpec(bits), input_spec), x)
    inputs, weight = naive_operands(layer, x)
    expected = torch.stack([(inputs * row).sum(-1) for row in weight], dim=-1) + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_mode_of_the_norm_and_requires_grad_are_kept():
    module = Conv2d(4, 6, 3, norm=nn.BatchNorm2d(6))
    module.norm.eval()
    module.weight.requires_grad_(False)
    weight = module.weight
    layer = QuantConv2d.from_float(module.train(), QuantSpec(4))
    layer.norm.eval()
    assert layer.training and layer.weight is weight and not layer.weight.requires_grad


def test_empty_batch():
    conv = calibrated(QuantConv2d.from_float(nn.Conv2d(3, 4, 3), QuantSpec(4), INPUT_SPEC), torch.randn(5))
    assert conv(torch.empty(0, 3, 8, 8)).shape == (0, 4, 6, 6)
    linear = calibrated(QuantLinear.from_float(nn.Linear(3, 4), QuantSpec(4), INPUT_SPEC), torch.randn(5))
    assert linear(torch.empty(0, 3)).shape == (0, 4)


def test_straight_through_gradients():
    x = torch.randn(5, 6, requires_grad=True)
    layer = calibrated(QuantLinear.from_float(nn.Linear(6, 4), QuantSpec(4), INPUT_SPEC), x)
    layer(x).sum().backward()
    # d/dw = sum over the batch of the quantized input.
    torch.testing.assert_close(layer.weight.grad, layer.input_quantizer(x).sum(0).expand(4, 6).detach())
    inside = (x >= 0.69 * x.min()) & (x <= 0.69 * x.max())
    expected = layer.weight_quantizer(layer.weight).sum(0).expand(5, 6)
    torch.testing.assert_close(x.grad[inside], expected[inside])
    assert x.grad[(x < 0.72 * x.min()) | (x > 0.72 * x.max())].abs().max() == 0


def test_attention_products_in_full_precision_equal_the_float_ones():
    q, k, v = (torch.randn(2, 3, length, 8) for length in (5, 7, 7))
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    quantized = QuantAttentionProducts.from_float(AttentionProducts(), INPUT_SPEC)
    with pytest.raises(RuntimeError, match="not calibrated"):
        quantized(q, k, v, mask)
    for quantizer in quantized.children():
        quantizer.set_range(-5, 5)
    quantized.probability_quantizer.set_range(0, 1)
    for attention_mask in (mask, None):
        found, expected = quantized(q, k, v, attention_mask), AttentionProducts()(q, k, v, attention_mask)
        assert 0 < (found - expected).abs().max() < 0.1
    assert torch.equal(quantized(q, k, v, mask)[1], quantized(q[1:], k[1:, :, :4], v[1:, :, :4])[0])


def test_attention_products_equal_their_formula():
    q, k, v = (torch.randn(1, 2, length, 4) for length in (3, 5, 5))
    products = QuantAttentionProducts.from_float(AttentionProducts(), QuantSpec(4, False, False))
    for quantizer in products.children():
        quantizer.set_range(-2, 2)
    scores = products.query_quantizer(q) @ products.key_quantizer(k).mT / 2
    expected = products.probability_quantizer(scores.softmax(-1)) @ products.value_quantizer(v)
    torch.testing.assert_close(products(q, k, v), expected)


def test_affine_weights_are_refused():
    with pytest.raises(ValueError, match="symmetric"):
        QuantLinear.from_float(nn.Linear(2, 2), INPUT_SPEC)
