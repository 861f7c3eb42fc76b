"""Quantizer modules: calibration is explicit, saved and restored."""

import copy
import itertools

import pytest
import torch

from fisher_detr.quantization import (
    ActivationQuantizer,
    FakeQuantizer,
    LearnedStep,
    StepGradient,
    WeightQuantizer,
    fake_quantize,
    quantization_error,
)
from fisher_detr.quantization.fake_quantizer import bypassed
from fisher_detr.structures import QuantSpec, ScaleMethod

AFFINE = QuantSpec(8, symmetric=False, per_channel=False)


def test_uncalibrated_quantizers_refuse_to_run():
    for quantizer in (ActivationQuantizer(AFFINE), WeightQuantizer(QuantSpec(4), 3)):
        assert not quantizer.is_calibrated and "not calibrated" in repr(quantizer)
        with pytest.raises(RuntimeError, match="not calibrated: call calibrate_weights"):
            quantizer(torch.ones(3, 2))
        with bypassed(quantizer, FakeQuantizer):
            assert torch.equal(quantizer(torch.ones(3, 2)), torch.ones(3, 2))
        with pytest.raises(RuntimeError, match="not calibrated"):
            quantizer(torch.ones(3, 2))


@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_quantizer(per_channel):
    spec, weight = QuantSpec(3, per_channel=per_channel), torch.randn(4, 6, requires_grad=True)
    quantizer = WeightQuantizer(spec, 4 if per_channel else 1)
    quantizer.calibrate(weight, ScaleMethod.MSE)
    quantized = quantizer(weight)
    assert torch.equal(quantized, fake_quantize(weight, quantizer.scale, spec))
    assert len(quantized[0].unique()) <= 7
    assert list(quantizer.state_dict()) == ["scale", "bits"]


@pytest.mark.parametrize("per_channel", [True, False])
def test_error_that_the_allocator_weighs_is_the_quantizers(per_channel):
    weight, fisher = torch.randn(4, 6), torch.rand(4, 6)
    for bits, method in itertools.product(range(2, 9), ScaleMethod):
        quantizer = WeightQuantizer(QuantSpec(bits, per_channel=per_channel), 4 if per_channel else 1)
        quantizer.calibrate(weight, method, fisher)
        error = quantization_error(weight, bits, method, per_channel, fisher)
        assert torch.equal(error, quantizer(weight) - weight)


def test_activation_range_holds_zero_exactly():
    quantizer = ActivationQuantizer(AFFINE)
    for low, high in ((-1.3, 2.1), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), (0.0, 1e-42)):
        quantizer.set_range(low, high)
        assert quantizer(torch.zeros(1)).item() == 0.0
        step = (max(high, 0) - min(low, 0)) / 255
        x = torch.linspace(min(low, 0), max(high, 0), 1001)
        # The zero point is rounded to a level, which moves the range by half a step at most.
        assert (quantizer(x) - x).abs().max() <= step * 1.001 + 1e-37


def test_relu_range_has_zero_point_zero():
    quantizer = ActivationQuantizer(AFFINE)
    quantizer.set_range(0.3, 5.1)
    assert quantizer.zero_point.item() == 0 and quantizer.scale.item() == pytest.approx(5.1 / 255)


def test_state_dict_saves_and_restores_calibration():
    quantizer, fresh = ActivationQuantizer(AFFINE), ActivationQuantizer(AFFINE)
    quantizer.set_range(-1, 2)
    fresh.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    x = torch.randn(100)
    assert torch.equal(fresh(x), quantizer(x))
    fresh.load_state_dict(ActivationQuantizer(AFFINE).state_dict())
    with pytest.raises(RuntimeError, match="not calibrated"):
        fresh(x)


def test_state_dict_of_another_width_is_refused():
    quantizer, other = WeightQuantizer(QuantSpec(4), 3), WeightQuantizer(QuantSpec(3), 3)
    other.calibrate(torch.ones(3, 2))
    with pytest.raises(RuntimeError, match="the state dict has 3 bits, the model 4"):
        quantizer.load_state_dict(other.state_dict(), strict=False)


def test_scale_must_be_positive_and_finite():
    for scale in (0.0, -1.0, torch.nan, torch.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            ActivationQuantizer(AFFINE).set_scale(torch.tensor([scale]))


def test_copies_keep_their_own_calibration():
    quantizer = ActivationQuantizer(AFFINE)
    quantizer.set_range(0, 1)
    copied = copy.deepcopy(quantizer)
    copied.reset()
    assert quantizer.is_calibrated and not copied.is_calibrated


def make_quantizers(kind):
    """A calibrated quantizer twice, with a fixed scale and with a learned one, and an input."""
    quantizers = []
    for _ in range(2):
        if kind == "weight":
            x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
            quantizer = WeightQuantizer(QuantSpec(4), 3)
            quantizer.calibrate(0.7 * x)
        else:
            x = torch.randn(200, generator=torch.Generator().manual_seed(0))
            quantizer = ActivationQuantizer(AFFINE)
            quantizer.set_range(-1, 2)
        quantizers.append(quantizer)
    quantizers[1].learn_scale(StepGradient.LSQ, 40)
    return *quantizers, x


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_learned_scale_has_the_names_and_the_outputs_of_a_fixed_one(kind):
    fixed, learned, x = make_quantizers(kind)
    assert learned.is_learned and not fixed.is_learned
    assert [name for name, _ in learned.named_parameters()] == ["scale"]
    assert not list(fixed.parameters())
    assert set(learned.state_dict()) == set(fixed.state_dict())
    assert torch.equal(learned(x), fixed(x)) and torch.equal(learned.quantize(x), fixed.quantize(x))
    learned.fix_scale()
    assert not learned.is_learned and not list(learned.parameters())
    assert set(learned.state_dict()) == set(fixed.state_dict())
    assert torch.equal(learned(x), fixed(x)) and not learned(x).requires_grad
    learned.fix_scale()  # a second time changes nothing
    assert torch.equal(learned(x), fixed(x))


@pytest.mark.parametrize("kind", ["weight", "activation"])
@pytest.mark.parametrize("learned_first", [True, False])
def test_state_dicts_of_learned_and_fixed_scales_are_exchanged(kind, learned_first):
    source, target, x = make_quantizers(kind)
    if learned_first:
        source, target = target, source
    source.set_scale(source.scale.detach() * 1.5)
    scale, is_learned = target.scale, target.is_learned
    target.load_state_dict(source.state_dict(), strict=True)
    assert target.scale is scale and target.is_learned == is_learned
    assert torch.equal(target(x), source(x))


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_copies_of_a_learned_scale(kind):
    _, quantizer, x = make_quantizers(kind)
    copied = copy.deepcopy(quantizer)
    assert copied.is_learned and torch.equal(copied(x), quantizer(x))
    copied(x).sum().backward()
    assert copied.scale.grad is not None and quantizer.scale.grad is None


def test_factor_of_lsq_and_of_pact():
    """`1 / sqrt(N qmax)` and `1 / qmax^2`."""
    x = torch.linspace(-3, 3, 50)
    for gradient, factor in ((StepGradient.LSQ, (50 * 255) ** -0.5), (StepGradient.PACT, 255**-2)):
        quantizer = ActivationQuantizer(AFFINE)
        quantizer.set_range(-1, 2)
        quantizer.learn_scale(gradient, 50)
        quantizer(x).sum().backward()
        scale = quantizer.scale.detach().clone().requires_grad_()
        step = LearnedStep(gradient, factor)
        fake_quantize(x, scale, AFFINE, quantizer.zero_point, step).sum().backward()
        assert torch.equal(quantizer.scale.grad, scale.grad) and scale.grad.abs() > 0


@pytest.mark.parametrize("gradient", StepGradient)
def test_gradient_of_a_batch_is_the_sum_over_its_parts(gradient):
    """An activation's N is that of one item, so that ranks and micro-batches add up."""
    x = torch.linspace(-3, 3, 48, dtype=torch.float64).view(4, 3, 4)
    found = []
    for parts in (1, 2, 4):
        quantizer = ActivationQuantizer(AFFINE).double()
        quantizer.set_range(-1, 2)
        quantizer.learn_scale(gradient)
        for part in x.chunk(parts):
            quantizer(part).sum().backward()
        found.append(quantizer.scale.grad)
    torch.testing.assert_close(found[1:], found[:1] * 2)


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_scale_that_is_not_used_has_gradient_zero(kind):
    """Not None: DistributedDataParallel waits for every parameter."""
    _, quantizer, x = make_quantizers(kind)
    quantizer.reset()
    x.requires_grad_()
    with bypassed(quantizer, FakeQuantizer):
        values = quantizer(x)
        assert torch.equal(values, x)
        (3 * values).sum().backward()
    assert torch.equal(quantizer.scale.grad, torch.zeros_like(quantizer.scale))
    assert torch.equal(x.grad, torch.full_like(x, 3.0))
    with bypassed(quantizer, FakeQuantizer), torch.no_grad():
        assert torch.equal(quantizer(x), x)


def test_second_derivatives_pass_through_a_learned_scale_that_is_not_used():
    _, quantizer, x = make_quantizers("weight")
    x.requires_grad_()
    with bypassed(quantizer, FakeQuantizer):
        (gradient,) = torch.autograd.grad(quantizer(x).pow(3).sum(), x, create_graph=True)
    of_x, of_scale = torch.autograd.grad(gradient.sum(), [x, quantizer.scale], materialize_grads=True)
    torch.testing.assert_close(of_x, 6 * x)
    assert torch.equal(of_scale, torch.zeros_like(of_scale))
