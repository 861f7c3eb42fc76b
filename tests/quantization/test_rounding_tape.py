"""A repeated pass is the recorded one, moved smoothly: values and gradients."""

import itertools

import pytest
import torch

from fisher_detr.quantization import ActivationQuantizer, StepGradient
from fisher_detr.quantization.rounding_tape import RoundingTape
from fisher_detr.structures import QuantSpec

AFFINE, SYMMETRIC = (QuantSpec(4, symmetric, per_channel=False) for symmetric in (False, True))
CASES = list(itertools.product((AFFINE, SYMMETRIC), (None, *StepGradient)))


def make_quantizer(spec=AFFINE, gradient=None, dtype=torch.float64):
    """With a tape; some of the values below are clipped on either side."""
    quantizer = ActivationQuantizer(spec).to(dtype)
    quantizer.set_range(-1.0, 1.3)
    if gradient:
        quantizer.learn_scale(gradient, 10)
    quantizer.tape = RoundingTape()
    return quantizer


def values(seed=0, shape=(5, 6), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(quantizer, x, weights):
    leaves = [x.clone().requires_grad_()]
    leaves += [quantizer.scale] if quantizer.is_learned else []
    output = quantizer(leaves[0])
    return output, torch.autograd.grad((output * weights).sum(), leaves)


@pytest.mark.parametrize(("spec", "gradient"), CASES)
def test_repeated_pass(spec, gradient):
    """What rounding added is added again; what was clipped stays where it was."""
    quantizer, x, weights = make_quantizer(spec, gradient), values(), values(1)
    recorded, expected = gradients(quantizer, x, weights)
    ratio = (x / quantizer.scale).round() + quantizer.zero_point
    inside = (ratio >= spec.qmin) & (ratio <= spec.qmax)
    assert 3 < inside.sum() < x.numel() - 3
    moved = x + values(2)  # much further than a finite difference: the mask is frozen as well
    quantizer.tape.rewind()
    repeated, found = gradients(quantizer, moved, weights)
    torch.testing.assert_close(repeated, torch.where(inside, moved + (recorded - x), recorded))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0], weights * inside, rtol=0, atol=0)


@pytest.mark.parametrize(("spec", "gradient"), CASES)
def test_the_same_input_gives_the_same_output(spec, gradient):
    quantizer = make_quantizer(spec, gradient, torch.float32)
    x = values(dtype=torch.float32)
    recorded = quantizer(x)
    for _ in range(2):
        quantizer.tape.rewind()
        torch.testing.assert_close(quantizer(x), recorded, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mask_is_that_of_the_gradient_in_single_precision(bits, symmetric):
    """Close to the ends of the range too."""
    spec = QuantSpec(bits, symmetric, per_channel=False)
    quantizer = make_quantizer(spec, dtype=torch.float32)
    low, high = quantizer.value_range()
    x = torch.linspace(1.5 * low, 1.5 * high, 10007).requires_grad_()
    quantizer(x).sum().backward()
    inside, x.grad = x.grad.bool(), None
    quantizer.tape.rewind()
    quantizer(x).sum().backward()
    assert torch.equal(x.grad.bool(), inside)


def test_calls_are_repeated_in_their_order():
    quantizer = make_quantizer()
    inputs = [values(seed, shape) for seed, shape in enumerate([(3,), (2, 4), (0, 7), (3,)])]
    recorded = [quantizer(x) for x in inputs]
    for _ in range(2):
        quantizer.tape.rewind()
        for x, expected in zip(inputs, recorded, strict=True):
            torch.testing.assert_close(quantizer(x), expected)


def test_pass_unlike_the_recorded_one():
    quantizer = make_quantizer()
    quantizer(values())
    quantizer.tape.rewind()
    quantizer(values())
    message = (
        r"call 1 of a frozen quantizer has an input of shape \(5, 6\), unlike the pass that was recorded"
    )
    with pytest.raises(RuntimeError, match=message):
        quantizer(values())
    quantizer.tape.rewind()
    with pytest.raises(RuntimeError, match=r"call 0 .* shape \(2, 3\).* the same images"):
        quantizer(values(shape=(2, 3)))


@pytest.mark.parametrize("changed", ["input", "output"])
def test_tensor_that_was_changed_in_place(changed):
    """The reference would give another rounding than the recorded one."""
    quantizer, x = make_quantizer(), values()
    recorded = quantizer(x)
    (x if changed == "input" else recorded).add_(1.0)
    quantizer.tape.rewind()
    with pytest.raises(RuntimeError, match=r"a tensor of shape \(5, 6\) was changed in place .* new tensor"):
        quantizer(x)
