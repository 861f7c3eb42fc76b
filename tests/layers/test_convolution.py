"""The convolution with its own second derivative equals torch's."""

import pytest
import torch
from torch.nn import functional as F

from fisher_detr.layers import twice_differentiable

GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"groups": 2, "padding": 1},
    {"padding": "same"},
]


def leaves(groups=1, x_needs_grad=True):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 7, 6), (6, 4 // groups, 3, 3), (6,)
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return [x.requires_grad_(x_needs_grad), weight.requires_grad_(), bias.requires_grad_()]


def derivatives(x, weight, bias, **geometry):
    """Values, gradients, and the gradients of their squared norm."""
    wanted = [leaf for leaf in (x, weight, bias) if leaf is not None and leaf.requires_grad]
    values = F.conv2d(x, weight, bias, **geometry)
    first = torch.autograd.grad(torch.tanh(values).square().sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), wanted)
    return [values, *first, *second]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("x_needs_grad", [True, False])
def test_equals_that_of_torch(geometry, has_bias, x_needs_grad):
    x, weight, bias = leaves(geometry.get("groups", 1), x_needs_grad)
    arguments = x, weight, bias if has_bias else None
    expected = derivatives(*arguments, **geometry)
    with twice_differentiable():
        found = derivatives(*arguments, **geometry)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_numerically():
    x, weight, bias = leaves()
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(
            lambda *inputs: F.conv2d(*inputs, padding=1),
            (x[:1, :, :4, :4].detach().requires_grad_(), weight, bias),
        )


def test_layers_and_other_functions_pass_through():
    layer, x = torch.nn.Conv2d(4, 2, 3), torch.randn(1, 4, 5, 5)
    with twice_differentiable():
        found = layer(x)
        assert type(found.grad_fn).__name__ == "_ConvolutionBackward"
        assert torch.equal(F.relu(x), x.relu())
    assert torch.equal(found, layer(x))
    assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0"


def test_arguments_by_name_and_mixed_precision():
    x, weight, bias = (leaf.detach().float() for leaf in leaves())
    with twice_differentiable():
        assert torch.equal(F.conv2d(input=x, weight=weight, bias=bias), F.conv2d(x, weight, bias))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = F.conv2d(x.requires_grad_(), weight, bias)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert x.grad.abs().sum() > 0


def test_one_weight_gradient_alone_and_a_third_derivative():
    x, weight, _ = leaves(x_needs_grad=False)
    with twice_differentiable():
        first = torch.autograd.grad(F.conv2d(x, weight).square().sum(), weight, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()
