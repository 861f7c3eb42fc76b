"""`||g||^2` and its gradient against naive double loops in float64, exactly and by finite differences."""

import contextlib
import threading

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torchvision.ops import roi_align

from fisher_detr.fisher import PenaltyMethod, SquaredNorm, require_twice_differentiable, squared_norm
from fisher_detr.quantization import (
    FakeQuantizer,
    LearnedStep,
    ScaleTraining,
    StepGradient,
    activation_quantizers,
    bypassed,
    calibrate_activations,
    frozen_rounding,
    held_weights,
    learn_scales,
    quantize_model,
    quantized_layers,
)
from tests.oracles.learned_step import fake_quantize_formula

EXACT, DIFFERENCE = PenaltyMethod.EXACT, PenaltyMethod.FINITE_DIFFERENCE
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
SIZES = (4, 6, 5, 3)
SCALES = (ScaleTraining.LSQ, ScaleTraining.PACT)
SAMPLES = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def make_net(activation):
    """Three layers at 4 bits, weights and inputs, all scales learned."""
    torch.manual_seed(1)
    pairs = zip(SIZES[:-1], SIZES[1:], strict=True)
    parts = [part for pair in pairs for part in (nn.Linear(*pair), ACTIVATIONS[activation]())]
    net = nn.Sequential(*parts[:-1])
    quantize_model(net, bits=4, activation_bits=4)
    net.double()
    calibrate_activations(net, [0.7 * SAMPLES])
    learn_scales(net, *SCALES)
    return net


class Loss:
    """Cross entropy of a network."""

    def __init__(self, net, rewind=lambda: None, batch=slice(None)):
        self.net, self.rewind, self.batch = net, rewind, batch

    def __call__(self):
        return F.cross_entropy(self.net(SAMPLES[self.batch]), LABELS[self.batch])

    def again(self):
        self.rewind()
        return self()


def measure(net, method, radius=1e-3, quantized=True, batch=slice(None), mean=None):
    bypass = contextlib.nullcontext() if quantized else bypassed(net, FakeQuantizer)
    parameters = list(net.parameters())
    with bypass, held_weights(quantized_layers(net)) as held, frozen_rounding(net) as rewind:
        found = squared_norm(
            Loss(net, rewind, batch), list(held.leaves.values()), parameters, method, radius, mean
        )
        through = held.pull_back(dict(zip(held.leaves, found.gradients, strict=False)), parameters)
    direct = found.gradients[len(held.leaves) :]
    assert not any(a is not None and b is not None for a, b in zip(direct, through, strict=True))
    gradients = [part if other is None else other for part, other in zip(direct, through, strict=True)]
    return SquaredNorm(
        found.value,
        tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)),
    )


def naive(net, activation, quantized, samples=SAMPLES, labels=LABELS):
    """Sum of squares, and `2 sum_i g_i dg_i / dp` weight by weight, on formulas without the package's layers.

    A parameter that has no part gets zeros.
    """
    parameters = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    offsets, x = [], samples
    for name, layer in quantized_layers(net).items():
        weight = parameters[f"{name}.weight"]
        if quantized:
            weight = formula(weight, layer.weight_quantizer, parameters[f"{name}.weight_quantizer.scale"])
            x = formula(x, layer.input_quantizer, parameters[f"{name}.input_quantizer.scale"])
        offsets.append(torch.zeros_like(weight, requires_grad=True))
        x = x @ (weight + offsets[-1]).T + parameters[f"{name}.bias"]
        if layer is not net[-1]:
            x = F.gelu(x) if activation == "gelu" else x.clamp(min=0)
    gradient = torch.autograd.grad(F.cross_entropy(x, labels), offsets, create_graph=True)
    value, total = 0.0, [torch.zeros_like(parameter) for parameter in parameters.values()]
    for g in torch.cat([part.flatten() for part in gradient]):
        value += g.item() ** 2
        rows = torch.autograd.grad(g, list(parameters.values()), retain_graph=True, materialize_grads=True)
        for found, row in zip(total, rows, strict=True):
            found += 2 * g.item() * row
    return value, total


def formula(x, quantizer, scale):
    """LSQ for weights of 4 bits with one scale for each row, PACT for activations."""
    is_weight = quantizer.spec.symmetric
    step = (
        LearnedStep(StepGradient.LSQ, (x.shape[1] * 7) ** -0.5)
        if is_weight
        else LearnedStep(StepGradient.PACT, quantizer.spec.qmax**-2)
    )
    return fake_quantize_formula(x, scale, quantizer.spec, quantizer.zero_point, step)


def distance(found, expected):
    """Of two lists of tensors, relative to the second."""
    found, expected = (torch.cat([part.flatten() for part in parts]) for parts in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("quantized", [True, False])
def test_exact_equals_the_double_loop(activation, quantized):
    net = make_net(activation)
    found = measure(net, EXACT, quantized=quantized)
    value, gradients = naive(net, activation, quantized)
    assert found.value.item() == pytest.approx(value, rel=1e-12)
    assert len(found.gradients) == len(gradients) == 12
    for one, other, (name, _) in zip(found.gradients, gradients, net.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_exact_equals_differences_of_the_value(activation):
    """Without any second derivative, in full precision: parameter by parameter, both ways."""
    net = make_net(activation)
    found = measure(net, EXACT, quantized=False)
    step = 1e-6
    for (name, parameter), gradient in zip(net.named_parameters(), found.gradients, strict=True):
        flat, expected = parameter.data.view(-1), []
        for index in range(flat.numel()):
            values = []
            for sign in (1, -1):
                flat[index] += sign * step
                values.append(naive_value(net))
                flat[index] -= sign * step
            expected.append((values[0] - values[1]) / (2 * step))
        expected = torch.tensor(expected, dtype=torch.float64).view_as(gradient)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8, msg=lambda m, n=name: f"{n} {m}")


def naive_value(net):
    with bypassed(net, FakeQuantizer):
        gradient = torch.autograd.grad(Loss(net)(), [net[i].weight for i in (0, 2, 4)])
    return sum(part.square().sum().item() for part in gradient)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("quantized", [True, False])
def test_finite_difference_converges(activation, quantized):
    """Its error is of the order of the radius."""
    net = make_net(activation)
    exact = measure(net, EXACT, quantized=quantized)
    errors = []
    for radius in (1e-3, 1e-4, 1e-5):
        found = measure(net, DIFFERENCE, radius, quantized)
        assert found.value.item() == pytest.approx(exact.value.item(), rel=1e-12)
        errors.append(distance(found.gradients, exact.gradients))
    assert errors[0] < 0.1 and errors[1] < errors[0] / 8 and errors[2] < errors[1] / 8


def test_finite_difference_is_its_formula():
    """`2 ||g|| (grad L(q + r g / ||g||) - grad L(q)) / r` with `r = rho L / ||g||`."""
    net, radius = make_net("gelu"), 0.05
    found = measure(net, DIFFERENCE, radius, quantized=False)
    parameters = list(net.parameters())
    weights = [net[i].weight for i in (0, 2, 4)]
    with bypassed(net, FakeQuantizer):
        loss = Loss(net)()
        gradient = torch.autograd.grad(loss, weights, retain_graph=True)
        before = torch.autograd.grad(loss, parameters)
        norm = sum(part.square().sum() for part in gradient).sqrt()
        step = radius * loss.item() / norm
        with torch.no_grad():
            for weight, part in zip(weights, gradient, strict=True):
                weight += step * part / norm
        after = torch.autograd.grad(Loss(net)(), parameters)
    assert norm * step == pytest.approx(radius * loss.item())
    expected = [2 * norm * (b - a) / step for a, b in zip(before, after, strict=True)]
    assert distance(found.gradients, expected) < 1e-9


@pytest.mark.parametrize("method", PenaltyMethod)
def test_value_is_the_sum_of_squares_by_the_quantized_weights(method):
    """Of a network whose weights are the quantized ones, read as leaves."""
    net = make_net("gelu")
    found = measure(net, method).value.item()
    for layer in quantized_layers(net).values():
        layer.weight.data = layer.weight_quantizer(layer.weight).data
    weights = [layer.weight for layer in quantized_layers(net).values()]
    with bypassed(net, *{type(layer.weight_quantizer) for layer in quantized_layers(net).values()}):
        gradient = torch.autograd.grad(Loss(net)(), weights)
    assert found == pytest.approx(sum(part.square().sum().item() for part in gradient), rel=1e-10)


class Meeting:
    """Averages over threads that stand for processes."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=60)
        self.brought = [None] * count

    def mean(self, rank):
        def average(tensors):
            self.brought[rank] = tensors
            self.barrier.wait()
            return [torch.stack(parts).mean(0) for parts in zip(*self.brought, strict=True)]

        return average


@pytest.mark.parametrize("method", PenaltyMethod)
def test_minibatch_over_two_ranks_is_that_of_one(method):
    """The norm is that of the mean gradient, and the gradient the mean of what the ranks find."""
    expected = measure(make_net("gelu"), method)
    nets = [make_net("gelu") for _ in range(2)]  # not in the threads, which share their random numbers
    meeting, found = Meeting(2), {}

    def run(rank):
        half = slice(4 * rank, 4 * rank + 4)
        found[rank] = measure(nets[rank], method, batch=half, mean=meeting.mean(rank))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(found[0].value, expected.value)
    torch.testing.assert_close(found[1].value, expected.value)
    mean = [(one + other) / 2 for one, other in zip(found[0].gradients, found[1].gradients, strict=True)]
    assert distance(found[0].gradients, expected.gradients) > 0.01
    assert distance(mean, expected.gradients) < 1e-6


class Given:
    """A loss that is a function of weights and parameters."""

    def __init__(self, function):
        self.function = function

    def __call__(self):
        return self.function()

    again = __call__


def make_leaf():
    return torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)


def filled(found, tensors):
    """Gradients with zeros for None."""
    return [torch.zeros_like(x) if g is None else g for x, g in zip(tensors, found.gradients, strict=True)]


@pytest.mark.parametrize("method", PenaltyMethod)
def test_by_hand(method):
    """L = sum w^3 a / 3, g = w^2 a, ||g||^2 = a^2 sum w^4; a weight and a parameter that stand apart."""
    weight, a = make_leaf(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    unused, apart = (torch.ones(2, requires_grad=True, dtype=torch.float64) for _ in range(2))
    loss = Given(lambda: a * weight.pow(3).sum() / 3 + apart.sum())
    found = squared_norm(loss, [weight, unused], [a, apart], method, 1e-9)
    assert found.value.item() == 4 * (1 + 16 + 256)
    of_weight, of_unused, of_a, of_apart = filled(found, [weight, unused, a, apart])
    torch.testing.assert_close(of_weight, 16 * weight.detach() ** 3, rtol=1e-5, atol=0)
    assert of_a.item() == pytest.approx(2 * 2 * (1 + 16 + 256), rel=1e-5)
    assert not of_unused.any() and not of_apart.any()


@pytest.mark.parametrize("method", PenaltyMethod)
@pytest.mark.parametrize("factor", [3.0, -3.0, 0.0])
def test_linear_loss_has_no_second_derivative(method, factor):
    """A flat one, with the factor 0, as well."""
    weight, parameter = make_leaf(), make_leaf()
    loss = Given(lambda: factor * (weight + parameter).sum())
    found = squared_norm(loss, [weight], [parameter], method, 0.1)
    assert found.value.item() == 3 * factor**2
    assert not any(part.any() for part in filled(found, [weight, parameter]))


def test_process_whose_loss_depends_on_nothing_that_is_asked_for():
    """Others' gradients make the step; it evaluates twice like them, for they may exchange within."""
    weight, stranger = make_leaf(), make_leaf()
    evaluations = []
    loss = Given(lambda: evaluations.append(1) or stranger.sum())
    found = squared_norm(loss, [weight], [], DIFFERENCE, 0.1, mean=lambda tensors: [x + 1 for x in tensors])
    assert found.value.item() == 3.0 and found.gradients == (None,)
    assert len(evaluations) == 2 and stranger.grad is None and torch.equal(weight, make_leaf())


@pytest.mark.parametrize("method", PenaltyMethod)
def test_loss_of_one_layer_that_is_linear_and_one_that_is_not(method):
    linear, other = make_leaf(), make_leaf()
    loss = Given(lambda: linear.sum() + other.square().sum())
    found = squared_norm(loss, [linear, other], [], method, 1e-6)
    assert found.value.item() == 3 + 4 * (1 + 4 + 16)
    torch.testing.assert_close(filled(found, [linear, other]), [torch.zeros_like(linear), 8 * other.detach()])


@pytest.mark.parametrize("method", PenaltyMethod)
def test_loss_that_depends_on_nothing(method):
    weight = make_leaf()
    for function in (lambda: torch.tensor(1.0), lambda: weight.detach().sum()):
        with pytest.raises(ValueError, match="does not depend on any weight: it was computed without grad"):
            squared_norm(Given(function), [weight], [], method, 0.1)


def sampled(x):
    grid = torch.tanh(x).view(1, 1, 1, 2)
    return F.grid_sample(torch.arange(9.0).double().view(1, 1, 3, 3) * x.sum(), grid, align_corners=False)


def attended(x):
    q = x.view(1, 1, 1, 2).float()
    return F.scaled_dot_product_attention(q, q * 2, q * 3)


def pooled(x):
    boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]).double()
    return roi_align(x.sum() * torch.arange(9.0).double().view(1, 1, 3, 3) ** 2, boxes, 2).pow(2)


@pytest.mark.parametrize("operator", [sampled, attended, pooled])
def test_operator_without_a_second_derivative(operator):
    """`exact` refuses it, the finite difference needs none."""
    weight = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    loss = Given(lambda: operator(weight).square().sum())
    message = r"operator without a second derivative \(.*(not implemented|not supported)"
    with pytest.raises(ValueError, match=f"{message}.*finite_difference, or replace"):
        squared_norm(loss, [weight], [], EXACT)
    assert squared_norm(loss, [weight], [], DIFFERENCE, 1e-3).gradients[0].norm() > 0


@pytest.mark.parametrize("method", PenaltyMethod)
def test_other_errors_pass(method):
    def fails():
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        squared_norm(Given(fails), [make_leaf()], [], method, 0.1)


@pytest.mark.parametrize("radius", [0.0, -0.1, float("nan")])
def test_radius_must_be_positive(radius):
    weight = make_leaf()
    with pytest.raises(ValueError, match=f"radius of the finite difference is {radius}: expected a number"):
        squared_norm(Given(lambda: weight.sum()), [weight], [], DIFFERENCE, radius)


def test_weights_are_put_back_whatever_happens():
    weight = make_leaf()
    before, where = weight.detach().clone(), weight.data_ptr()
    loss = Given(lambda: weight.pow(3).sum())
    squared_norm(loss, [weight], [], DIFFERENCE, 0.1)
    assert torch.equal(weight, before) and weight.data_ptr() == where and weight.grad is None

    def fails():
        assert not torch.equal(weight, before)
        raise ZeroDivisionError

    loss.again = fails
    with pytest.raises(ZeroDivisionError):
        squared_norm(loss, [weight], [], DIFFERENCE, 0.1)
    assert torch.equal(weight, before) and weight.data_ptr() == where


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_clipped_somewhere(activation):
    """Otherwise the tests above would say nothing about PACT."""
    net, clipped = make_net(activation), []
    for quantizer in activation_quantizers(net).values():
        quantizer.register_forward_pre_hook(
            lambda module, inputs: clipped.append((inputs[0].max() > module.value_range()[1]).item())
        )
    net(SAMPLES)
    assert clipped == [True] * 3


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def test_operator_that_is_marked_is_refused():
    """Autograd would leave out its part of the second derivative without a word."""
    weight = make_leaf()
    require_twice_differentiable(weight.pow(3).sum(), [weight])
    with pytest.raises(ValueError, match="it is marked with once_differentiable.*finite_difference"):
        require_twice_differentiable(Once.apply(weight).sin().sum(), [weight])
