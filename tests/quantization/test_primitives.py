"""Fake quantization against naive loops, and its gradients of first and second order."""

import pytest
import torch

from fisher_detr.quantization import dequantize, fake_quantize, quantize
from fisher_detr.structures import QuantSpec


def naive_level(x, scale, zero, spec):
    return min(max(round(x / scale) + zero, spec.qmin), spec.qmax)  # Python rounds half to even


def naive_fake_quantize(x, scale, zero, spec):
    values = torch.empty_like(x)
    for channel in range(len(x)):
        s = scale[channel if spec.per_channel else 0].item()
        z = int(zero[channel if spec.per_channel else 0])
        for index, value in enumerate(x[channel].flatten().tolist()):
            values[channel].view(-1)[index] = (naive_level(value, s, z, spec) - z) * s
    return values


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_equals_naive_loop(bits, symmetric, per_channel):
    spec = QuantSpec(bits, symmetric, per_channel)
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=generator)
    x[:, 0, :2] = torch.tensor([100.0, -100.0])  # saturated
    scale = torch.tensor([0.11, 0.37, 0.05] if per_channel else [0.2], dtype=torch.float64)
    zero = torch.full_like(scale, 0 if symmetric else 2**bits // 3, dtype=torch.int32)
    expected = naive_fake_quantize(x, scale, zero, spec)
    torch.testing.assert_close(fake_quantize(x, scale, spec, zero), expected, rtol=0, atol=0)


def test_rounds_half_to_even_and_clips():
    spec, scale = QuantSpec(3, per_channel=False), torch.tensor([2.0])
    x = torch.tensor([1.0, 3.0, 5.0, -1.0, -3.0, 100.0, -100.0])
    # x / 2 = 0.5, 1.5, 2.5, -0.5, -1.5 -> 0, 2, 2, 0, -2; 3 bits hold -3 to 3
    assert quantize(x, scale, spec).tolist() == [0, 2, 2, 0, -2, 3, -3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fake_quantized_equals_dequantized_integers_bitwise(dtype):
    spec = QuantSpec(4)
    x = torch.randn(8, 50).to(dtype)
    scale = (x.float().abs().amax(1) / 7).to(dtype if dtype == torch.float64 else torch.float32)
    levels = quantize(x, scale, spec)
    assert levels.dtype == torch.int8
    expected = dequantize(levels, scale, spec).to(dtype)
    found = fake_quantize(x, scale, spec)
    assert found.dtype == dtype and torch.equal(found, expected)
    assert torch.equal(torch.signbit(found), torch.signbit(expected))  # no -0.0


def test_computes_in_float32_inside_autocast():
    x = torch.randn(4, 16)
    scale = x.abs().amax(1) / 127
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fake_quantize(x, scale, QuantSpec(8))
    assert torch.equal(inside, fake_quantize(x, scale, QuantSpec(8)))


def test_empty_tensors_and_nan():
    spec = QuantSpec(8, symmetric=False, per_channel=False)
    assert fake_quantize(torch.empty(0, 3), torch.ones(1), spec).shape == (0, 3)
    assert torch.isnan(fake_quantize(torch.tensor([torch.nan]), torch.ones(1), spec)).all()


def test_gradient_is_one_inside_and_zero_where_clipped():
    spec, scale = QuantSpec(3, per_channel=False), torch.tensor([1.0])
    x = torch.tensor([-9.0, -3.4, -3.0, 0.2, 3.0, 3.4, 3.6], requires_grad=True)
    fake_quantize(x, scale, spec).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]  # 3.4 rounds to the level 3, 3.6 is clipped to it


def straight_through(x, scale, spec):
    """The same function as a formula that autograd differentiates any number of times."""
    inside = ((x / scale).round().abs() <= spec.qmax).detach()
    value = ((x / scale).round().clamp(spec.qmin, spec.qmax) * scale).detach()
    return value + torch.where(inside, x - x.detach(), 0.0)


def test_double_backward_equals_that_of_the_formula():
    spec = QuantSpec(3, per_channel=False)
    scale = torch.tensor([0.3], dtype=torch.float64)
    a = torch.randn(6, 5, dtype=torch.float64)

    def penalty_gradient(quantizer):
        w = torch.linspace(-1.3, 1.3, 5, dtype=torch.float64, requires_grad=True)
        loss = torch.tanh(a @ quantizer(w, scale, spec)).square().sum()
        (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), w)[0]

    found, expected = penalty_gradient(fake_quantize), penalty_gradient(straight_through)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_a_learned_scale():
    spec = QuantSpec(3, per_channel=False)
    x = torch.tensor([-9.0, 0.2, 1.7, 9.0])
    scale = torch.tensor([1.0], requires_grad=True)
    fake_quantize(x, scale, spec).sum().backward()
    # LSQ: clipped -3 and 3; inside round(x) - x = -0.2 and 0.3
    assert scale.grad.item() == pytest.approx(-3 - 0.2 + 0.3 + 3, abs=1e-6)
