"""Weighted samples against torch's grid_sample, and their derivatives against numerical ones."""

import pytest
import torch
from torch.nn import functional as F

from fisher_detr.layers.weighted_samples import weighted_samples

SPREADS = pytest.mark.parametrize("spread", [0.8, 1.4, 4.0], ids=["inside", "at the border", "far outside"])


def make_problem(spread=1.4, shape=(4, 5), dtype=torch.float64, points=3):
    """Random points are never on whole pixels, where the gradient jumps."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *shape, generator=generator, dtype=dtype)
    locations = spread * (2 * torch.rand(2, points, 4, 2, generator=generator, dtype=dtype) - 1)
    weights = torch.randn(2, points, 4, generator=generator, dtype=dtype)
    return [x.requires_grad_() for x in (maps, locations, weights)]


def composed(maps, points, weights):
    return (F.grid_sample(maps, points, align_corners=False) * weights[:, None]).sum(2)


@SPREADS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients_are_those_of_torch(spread, dtype):
    inputs = make_problem(spread, dtype=dtype)
    found, expected = weighted_samples(*inputs), composed(*inputs)
    torch.testing.assert_close(found, expected)
    factors = torch.randn(found.shape, dtype=dtype)
    gradients = [torch.autograd.grad((x * factors).sum(), inputs) for x in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@SPREADS
@pytest.mark.parametrize("shape", [(4, 5), (3, 1), (1, 1)], ids=str)
def test_derivatives_of_second_order_numerically(spread, shape):
    assert torch.autograd.gradgradcheck(weighted_samples, make_problem(spread, shape))


@pytest.mark.parametrize("free", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
def test_derivatives_where_other_arguments_are_fixed(free):
    inputs = make_problem()
    for index, tensor in enumerate(inputs):
        tensor.requires_grad_(index in free)

    def sample(*tensors):
        arguments = list(inputs)
        for index, tensor in zip(free, tensors, strict=True):
            arguments[index] = tensor
        return weighted_samples(*arguments).square()

    chosen = [inputs[index] for index in free]
    assert torch.autograd.gradcheck(sample, chosen)
    assert torch.autograd.gradgradcheck(sample, chosen)


@pytest.mark.parametrize("index", range(3), ids=["maps", "points", "weights"])
def test_one_gradient_alone_is_differentiated(index):
    """The others receive nothing, which is not the same as zeros handed in by gradgradcheck."""
    inputs = make_problem()
    seconds = []
    for function in (weighted_samples, weighted_samples_in_pieces):
        (first,) = torch.autograd.grad(function(*inputs).square().sum(), inputs[index], create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), inputs, materialize_grads=True))
    for one, other in zip(*seconds, strict=True):
        torch.testing.assert_close(one, other)


def weighted_samples_in_pieces(maps, points, weights):
    """By indexing, which torch differentiates any number of times."""
    height, width = maps.shape[2:]
    x = (points[..., 0] + 1) * width / 2 - 0.5
    y = (points[..., 1] + 1) * height / 2 - 0.5
    total = 0
    for column in range(width):
        for row in range(height):
            share = (1 - (x - column).abs()).clamp(min=0) * (1 - (y - row).abs()).clamp(min=0)
            total = total + maps[:, :, row, column, None] * (share * weights).sum(1)[:, None]
    return total


def test_whole_pixels_are_read_as_they_are():
    maps = make_problem()[0].detach()
    points = torch.tensor([(2 * 3 + 1) / 5 - 1, (2 * 1 + 1) / 4 - 1], dtype=torch.float64)
    found = weighted_samples(maps, points.expand(2, 1, 1, 2), torch.ones(2, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(found[..., 0], maps[:, :, 1, 3])


@pytest.mark.parametrize("empty", ["images", "queries"])
def test_nothing_to_sample(empty):
    inputs = [x.detach() for x in make_problem()]
    inputs = [x[:0] for x in inputs] if empty == "images" else [inputs[0], *(x[:, :, :0] for x in inputs[1:])]
    inputs = [x.requires_grad_() for x in inputs]
    found = weighted_samples(*inputs)
    assert found.shape == composed(*inputs).shape and found.numel() == 0
    gradients = torch.autograd.grad(found.sum(), inputs)
    assert all(not gradient.any() for gradient in gradients)


def test_a_third_derivative_is_refused():
    maps, points, weights = make_problem()
    values = weighted_samples(maps, points, weights)
    (first,) = torch.autograd.grad(values.square().sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_compiled():
    """A compiler of the operators that it knows; a function that writes into its sums gives it zeros."""
    inputs = make_problem()
    compiled = torch.compile(weighted_samples, backend="eager")
    gradients = [torch.autograd.grad(f(*inputs).square().sum(), inputs) for f in (compiled, composed)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_operators_of_a_trace_are_those_an_exporter_knows():
    inputs = [x.detach() for x in make_problem(dtype=torch.float32)]
    traced = torch.jit.trace(weighted_samples, inputs)
    assert "grid_sampler" in str(traced.graph) and "PythonOp" not in str(traced.graph)
    torch.testing.assert_close(traced(*inputs), weighted_samples(*inputs))
