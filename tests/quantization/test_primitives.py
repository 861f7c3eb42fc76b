"""Fake quantization against naive loops, and its gradients of first and second order."""

import itertools

import numpy as np
import pytest
import torch

from fisher_detr.quantization import LearnedStep, StepGradient, dequantize, fake_quantize, quantize
from fisher_detr.quantization.primitives import _fused, nearest_values
from fisher_detr.structures import QuantSpec
from tests.oracles.learned_step import fake_quantize_formula


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


def make_problem(bits, symmetric, per_channel, dtype=torch.float64, shape=(3, 4, 5)):
    """Values far inside, far outside and on the outermost levels, scales, zero points, and their spec."""
    spec = QuantSpec(bits, symmetric, per_channel)
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(*shape, dtype=dtype, generator=generator)
    scale = torch.tensor([0.11, 0.37, 0.05] if per_channel else [0.2], dtype=dtype) * 8 / 2**bits
    zero = torch.full_like(scale, 0 if symmetric else 2**bits // 3, dtype=torch.int32)
    x[:, 0, 0], x[:, 0, 1] = 100.0, -100.0
    rows = x[:, 1].movedim(0, -1)  # [..., C]
    rows[0], rows[1] = scale * (spec.qmax - zero), scale * (spec.qmin - zero)  # on the outermost levels
    return x, scale, zero, spec


KINDS = list(itertools.product([True, False], [True, False]))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("symmetric", "per_channel"), KINDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_path_equals_numpy_bitwise(bits, symmetric, per_channel, layout):
    """Ties, huge and tiny values among them; `x * (1 / scale)` in float32 by its definition."""
    x, scale, zero, spec = make_problem(bits, symmetric, per_channel, torch.float32, (3, 4, 5, 6))
    x[:, 2, 0, :] = scale.view(-1, 1) * (torch.arange(6) - 2.5)
    x[0, 2, 1] = torch.tensor([1e38, -1e38, 1e-38, -1e-45, -0.0, 1e19])
    x = x.contiguous(memory_format=layout)
    scales = scale.view(-1, 1, 1, 1).numpy()
    zeros = zero.view(-1, 1, 1, 1).numpy().astype(np.float32)
    with np.errstate(over="ignore"):
        levels = np.rint(x.numpy() * (np.float32(1) / scales)) + zeros
    expected = (np.clip(levels, spec.qmin, spec.qmax) - zeros) * scales
    found = fake_quantize(x, scale, spec, zero)
    assert found.stride() == x.stride()
    for values in (found, dequantize(quantize(x, scale, spec, zero), scale, spec, zero)):
        assert torch.equal(values, torch.from_numpy(expected))
        assert not (torch.signbit(values) & (values == 0)).any()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("symmetric", "per_channel"), [(True, True), (True, False), (False, False)])
def test_kernel_of_gpus_gives_values_and_gradients_of_the_passes(bits, symmetric, per_channel):
    """It runs on a processor too, only slowly."""
    x, scale, zero, spec = make_problem(bits, symmetric, per_channel, torch.float32)
    values, inside = _fused(x, scale, 0 if symmetric else zero, spec)
    leaf = x.clone().requires_grad_()
    expected = fake_quantize(leaf, scale, spec, 0 if symmetric else zero)
    expected.sum().backward()
    assert torch.equal(values, expected)
    assert torch.equal(inside, leaf.grad.bool())
    assert 0 < inside.sum() < x.numel()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("step", StepGradient)
@pytest.mark.parametrize(("symmetric", "per_channel"), KINDS)
def test_gradient_of_the_scale_equals_a_loop(bits, symmetric, per_channel, step):
    x, scale, zero, spec = make_problem(bits, symmetric, per_channel)
    scale.requires_grad_()
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    (weights * fake_quantize(x, scale, spec, zero, LearnedStep(step))).sum().backward()
    expected = [0.0] * len(scale)
    for (channel, *_), value, weight in zip(
        itertools.product(range(3), range(20)), x.flatten().tolist(), weights.flatten().tolist(), strict=True
    ):
        index = channel if per_channel else 0
        expected[index] += weight * naive_slope(value / scale[index].item(), zero[index].item(), spec, step)
    torch.testing.assert_close(scale.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def naive_slope(ratio, zero, spec, step):
    """Derivative of one value with respect to the scale: equation 3 of LSQ, and of PACT times qmax."""
    level = round(ratio) + zero
    if level < spec.qmin:
        return spec.qmin - zero
    if level > spec.qmax:
        return spec.qmax - zero
    return round(ratio) - ratio if step is StepGradient.LSQ else 0.0


@pytest.mark.parametrize("per_channel", [True, False])
def test_gradients_equal_those_of_torch(per_channel):
    """torch has LSQ in one kernel, of affine ranges."""
    x, scale, zero, spec = make_problem(4, False, per_channel, torch.float32)
    factor, found, expected = 0.3, [], []
    for gradients, quantized in (
        (found, lambda x, s: fake_quantize(x, s, spec, zero, LearnedStep(factor=factor))),
        (expected, lambda x, s: torchs(x, s, zero.float(), spec, factor)),
    ):
        leaves = [x.clone().requires_grad_(), scale.clone().requires_grad_()]
        (quantized(*leaves) * torch.arange(x.numel()).view_as(x)).sum().backward()
        gradients.extend(leaf.grad for leaf in leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def torchs(x, scale, zero, spec, factor):
    if spec.per_channel:
        return torch._fake_quantize_learnable_per_channel_affine(
            x, scale, zero, 0, spec.qmin, spec.qmax, factor
        )
    return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, spec.qmin, spec.qmax, factor)


def test_gradient_of_a_learned_scale_by_hand():
    spec = QuantSpec(3, per_channel=False)
    for step, expected in (
        # clipped -3 and 3; inside round(x / 2) - x / 2 = -0.1, 1 - 0.85
        (LearnedStep(StepGradient.LSQ), -3 + 3 - 0.1 + 0.15),
        (LearnedStep(StepGradient.LSQ, 0.25), 0.25 * 0.05),
        (LearnedStep(StepGradient.PACT), -3 + 3 + 0.0 + 0.0),
    ):
        scale = torch.tensor([2.0], requires_grad=True)
        fake_quantize(torch.tensor([-9.0, 9.0, 0.2, 1.7]), scale, spec, 0, step).sum().backward()
        assert scale.grad.item() == pytest.approx(expected, abs=1e-6)


def test_gradient_of_pact_is_that_of_its_clipping_bound():
    """With y = (|x| - |x - alpha| + alpha) / 2 and alpha = 15 scale (equations 1 and 3)."""
    spec = QuantSpec(4, symmetric=False, per_channel=False)
    x = torch.tensor([-1.0, 0.3, 4.0, 7.0], dtype=torch.float64)
    scale = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(15 * 0.2, dtype=torch.float64, requires_grad=True)
    fake_quantize(x, scale, spec, 0, LearnedStep(StepGradient.PACT)).sum().backward()
    ((x.abs() - (x - alpha).abs() + alpha) / 2).sum().backward()
    assert alpha.grad.item() == 2  # 4 and 7 are clipped
    assert scale.grad.item() == pytest.approx(15 * 2)


@pytest.mark.parametrize("step", StepGradient)
@pytest.mark.parametrize("per_channel", [True, False])
def test_gradient_of_the_scale_at_the_edges(step, per_channel):
    spec = QuantSpec(4, per_channel=per_channel)
    scale = torch.full((3 if per_channel else 1,), 0.1, requires_grad=True)
    everything_clipped = torch.full((3, 5), 1e6)
    fake_quantize(everything_clipped, scale, spec, 0, LearnedStep(step)).sum().backward()
    torch.testing.assert_close(scale.grad, torch.full_like(scale, 7 * 15 / len(scale)))
    scale.grad = None
    fake_quantize(torch.empty(3, 0), scale, spec, 0, LearnedStep(step)).sum().backward()
    assert torch.equal(scale.grad, torch.zeros_like(scale))


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed", "expanded"])
def test_gradient_of_the_scale_in_every_layout(layout):
    """A dense pair is multiplied as one vector, the others value by value."""
    spec, scale = QuantSpec(4, per_channel=False), torch.tensor([0.2], requires_grad=True)
    x, grad = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = sum(
        g * naive_slope(v / scale.item(), 0, spec, StepGradient.LSQ)
        for v, g in zip(x.flatten().tolist(), grad.flatten().tolist(), strict=True)
    )
    if layout == "channels last":
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    elif layout == "transposed":
        x = x.transpose(1, 3).contiguous().transpose(1, 3)
    elif layout == "expanded":
        grad, expected = torch.ones(1).expand_as(x), None
    fake_quantize(x, scale, spec).backward(grad)
    if expected is None:
        expected = sum(naive_slope(v / scale.item(), 0, spec, StepGradient.LSQ) for v in x.flatten().tolist())
    assert scale.grad.item() == pytest.approx(expected, rel=1e-4)


def test_gradient_of_the_scale_in_single_precision():
    """Two long sums that nearly cancel: their difference is right to a part of what it typically is."""
    spec = QuantSpec(8, symmetric=False, per_channel=False)
    generator = torch.Generator().manual_seed(3)
    x, grad = torch.randn(2, 2**18, generator=generator, dtype=torch.float64)
    x = x.relu()
    slopes = (x * 50).round() - x * 50
    found = []
    for dtype in (torch.float32, torch.float64):
        scale = torch.tensor([0.02], dtype=dtype, requires_grad=True)
        fake_quantize(x.to(dtype), scale, spec).backward(grad.to(dtype))
        found.append(scale.grad.item())
    assert found[1] == pytest.approx((grad * slopes).sum().item(), rel=1e-9)
    assert abs(found[0] - found[1]) < 0.02 * (grad * slopes).norm().item()


@pytest.mark.parametrize("step", StepGradient)
@pytest.mark.parametrize("factor", [1.0, 0.1])
@pytest.mark.parametrize(("symmetric", "per_channel"), KINDS)
def test_gradient_is_linear_in_what_arrives(step, factor, symmetric, per_channel):
    """Its factors are constants: the second derivatives by x and scale are those of the formula, zero."""
    x, scale, zero, spec = make_problem(3, symmetric, per_channel)
    leaves = (x.requires_grad_(), scale.requires_grad_())
    values = fake_quantize(*leaves, spec, zero, LearnedStep(step, factor))

    def backward(grad):
        return torch.autograd.grad(values, leaves, grad, create_graph=True)

    arriving = torch.randn(x.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(backward, arriving)
    assert torch.autograd.gradgradcheck(backward, arriving)
    of_x, of_scale = backward(arriving)
    for second in torch.autograd.grad(of_x.sum() + of_scale.sum(), leaves, materialize_grads=True):
        assert torch.equal(second, torch.zeros_like(second))


@pytest.mark.parametrize("step", StepGradient)
@pytest.mark.parametrize("factor", [1.0, 0.1])
@pytest.mark.parametrize("per_channel", [True, False])
def test_double_backward_equals_that_of_the_formula(step, factor, per_channel):
    """The gradient of `||gradient||^2` by a weight, its scale, and an input's scale."""
    spec, affine = QuantSpec(3, per_channel=per_channel), QuantSpec(4, False, False)
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    weight = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    scales = torch.full((4 if per_channel else 1,), 0.3, dtype=torch.float64), torch.tensor([0.2]).double()

    def penalty_gradient(quantizer):
        leaves = [tensor.clone().requires_grad_() for tensor in (weight, *scales)]
        options = LearnedStep(step, factor)
        quantized = quantizer(leaves[0], leaves[1], spec, 0, options)
        inputs = quantizer(3 * samples * leaves[0].mean(0), leaves[2], affine, 6, options)
        loss = torch.tanh(inputs @ quantized.T).square().sum()
        gradient = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(sum(part.square().sum() for part in gradient), leaves)

    found, expected = penalty_gradient(fake_quantize), penalty_gradient(fake_quantize_formula)
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 0.01
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_offset_behind_the_quantizer_has_second_derivatives():
    """Of a smooth function there is a numerical check, with the offset as the leaf."""
    x, scale, _, spec = make_problem(4, True, True, shape=(3, 4, 2))
    inputs = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def loss(offset):
        return torch.tanh(inputs @ (fake_quantize(x, scale, spec) / 100 + offset).flatten(1).T)

    assert torch.autograd.gradgradcheck(loss, torch.zeros_like(x, requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_values_of_many_widths_are_those_of_each(dtype):
    x = torch.linspace(-3, 3, 601, dtype=dtype).expand(7, -1)
    scales, specs = torch.linspace(0.05, 1.3, 7, dtype=dtype), [QuantSpec(bits) for bits in range(2, 9)]
    bounds = torch.tensor([spec.qmax for spec in specs], dtype=dtype)
    found = nearest_values(x, scales[:, None], bounds[:, None])
    for i, spec in enumerate(specs):
        expected = fake_quantize(x[i : i + 1], scales[i : i + 1], spec)[0]
        assert torch.equal(found[i], expected) and torch.equal(found[i].signbit(), expected.signbit())
