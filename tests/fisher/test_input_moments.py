"""Second moments of a layer's inputs: by autograd, with a copy of the weight for every position."""

import pytest
import torch
from torch.nn import functional as F

from fisher_detr.fisher import input_moment


def values(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss_of(output):
    """Something that is not quadratic."""
    return (output * values(*output.shape, seed=9)).sin().sum()


def from_copies(gradients, groups=1):
    """Sum of `g g'` over positions and channels, from the gradients `[T, C, K]` of copies of the weight."""
    parts = gradients.unflatten(1, (groups, -1))
    return torch.einsum("tgck,tgcl->gkl", parts, parts)


@pytest.mark.parametrize("shape", [(4,), (7, 4), (2, 5, 4)])
def test_linear(shape):
    x, weight = values(*shape), values(3, 4, seed=1)
    output = (x @ weight.T).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(output), output)
    flat = x.reshape(-1, 4)
    copies = weight.expand(len(flat), -1, -1).clone().requires_grad_()  # [T, C, K]
    each = torch.einsum("tck,tk->tc", copies, flat).view(*shape[:-1], 3)
    (by_copy,) = torch.autograd.grad(loss_of(each), copies)
    torch.testing.assert_close(input_moment(x, gradient, (3, 4)), from_copies(by_copy))


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        ((1, 1), (1, 0, 1, 1)),
        ((3, 3), (1, 1, 1, 1)),
        ((3, 3), (2, 1, 1, 2)),
        ((3, 3), ((2, 1), (2, 3), (2, 1), 1)),
        ((2, 3), ((1, 2), (0, 1), (1, 2), 4)),
        ((3, 1), (3, 0, 1, 4)),
    ],
)
def test_convolution(kernel, geometry):
    groups = geometry[3]
    x, weight = values(2, 4, 7, 9), values(8, 4 // groups, *kernel, seed=1)
    output = F.conv2d(x, weight, None, *geometry).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(output), output)
    found = input_moment(x, gradient, weight.shape, geometry)
    patches = patches_of(x, kernel, *map(pair, geometry[:3]), output.shape[2:])  # [B, H', W', C', h, w]
    copies = weight.expand(*patches.shape[:3], *weight.shape).clone().requires_grad_()
    each = torch.einsum(
        "byxgchw,byxgochw->bgoyx",
        patches.unflatten(3, (groups, -1)),
        copies.unflatten(3, (groups, -1)),
    ).flatten(1, 2)
    torch.testing.assert_close(each, output)
    (by_copy,) = torch.autograd.grad(loss_of(each), copies)
    torch.testing.assert_close(found, from_copies(by_copy.flatten(0, 2).flatten(2), groups))


def pair(number):
    return number if isinstance(number, tuple) else (number, number)


def patches_of(x, kernel, stride, padding, dilation, size):
    """What the kernel covers at every position, by slices of the padded image."""
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows = []
    for i in range(size[0]):
        top, bottom = i * stride[0], i * stride[0] + dilation[0] * (kernel[0] - 1) + 1
        row = []
        for j in range(size[1]):
            left, right = j * stride[1], j * stride[1] + dilation[1] * (kernel[1] - 1) + 1
            row.append(x[:, :, top : bottom : dilation[0], left : right : dilation[1]])
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


def test_one_position_and_one_channel_is_the_fisher_information_itself():
    x, weight = values(1, 5), values(1, 5, seed=1).requires_grad_()
    output = F.linear(x, weight)
    by_output, by_weight = torch.autograd.grad(loss_of(output), (output, weight))
    torch.testing.assert_close(input_moment(x, by_output, (1, 5))[0], by_weight.T @ by_weight)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_a_batch_is_the_sum_of_its_images(with_gradient):
    x, gradient = values(3, 4, 6, 6), values(3, 2, 6, 6, seed=1)
    shape, geometry = (2, 2, 3, 3), (1, 1, 1, 2)
    gradients = gradient if with_gradient else [None] * 3
    one_by_one = sum(input_moment(*image, shape, geometry) for image in zip(x, gradients, strict=True))
    batch = input_moment(x, gradient if with_gradient else None, shape, geometry)
    torch.testing.assert_close(batch, one_by_one)


def test_without_gradient_it_is_that_of_the_inputs():
    """A convolution of kernel 1 x 1 and a linear layer see the same inputs."""
    x = values(2, 4, 3, 5)
    rows = x.movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(input_moment(x, None, (6, 4, 1, 1), (1, 0, 1, 1))[0], rows.T @ rows)
    torch.testing.assert_close(input_moment(x.movedim(1, -1), None, (6, 4))[0], rows.T @ rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision(dtype):
    """Small gradients, whose squares half precision has not."""
    x, gradient = values(50, 4).to(dtype), (1e-4 * values(50, 3, seed=1)).to(dtype)
    found = input_moment(x, gradient, (3, 4))
    assert found.dtype == torch.float32 and torch.equal(found, found.mT)
    expected = input_moment(x.double(), gradient.double(), (3, 4)).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_nothing_came_back():
    assert not input_moment(values(5, 4), torch.zeros(5, 3), (3, 4)).any()
    assert input_moment(values(0, 4), torch.zeros(0, 3), (3, 4)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("x", "gradient", "shape", "geometry"),
    [
        (values(5, 4), values(5, 3), (3, 6), None),
        (values(5, 4), values(6, 3), (3, 4), None),
        (values(4, 6, 6), values(2, 5, 6), (2, 4, 3, 3), (1, 1, 1, 1)),
    ],
)
def test_shapes_that_do_not_belong_together(x, gradient, shape, geometry):
    with pytest.raises(ValueError, match=r"do not belong to a weight of shape"):
        input_moment(x, gradient, shape, geometry)


@pytest.mark.parametrize("geometry", [None, (2, 1, 1, 2)])
def test_the_bias_is_one_more_input(geometry):
    """By autograd, with a copy of the bias for every position too."""
    x, weight = (values(7, 4), values(6, 4)) if geometry is None else (values(2, 4, 7, 9), values(6, 2, 3, 3))
    output = F.linear(x, weight) if geometry is None else F.conv2d(x, weight, None, *geometry)
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(output), output)
    groups = 1 if geometry is None else 2
    found = input_moment(x, gradient, weight.shape, geometry, with_bias=True)
    assert found.shape == (groups, weight[0].numel() + 1, weight[0].numel() + 1)
    torch.testing.assert_close(found[:, :-1, :-1], input_moment(x, gradient, weight.shape, geometry))
    flat = gradient if geometry is None else gradient.flatten(2).movedim(1, 2).flatten(0, 1)  # [T, C]
    of_copies = flat[..., None]
    torch.testing.assert_close(found[:, -1:, -1:], from_copies(of_copies, groups))
    if geometry is None:
        wider = torch.cat([x, torch.ones(7, 1, dtype=x.dtype)], dim=1)
        torch.testing.assert_close(found, input_moment(wider, gradient, (6, 5)))
