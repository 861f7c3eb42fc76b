"""Convolution whose second derivative is made of the kernels of the first.

torch forms the second derivative from convolutions with transposed arguments, whose kernels are as large as
the feature map. By the products below the whole of `METHOD: exact` takes 5 to 20 % less time on a processor.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

# Stride, padding, dilation, groups.
Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]


def conv2d(input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:  # noqa: A002 - as in torch
    """`F.conv2d`, with the same values and derivatives."""
    if isinstance(padding, str) or input.dim() != 4 or torch.is_autocast_enabled(input.device.type):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    geometry = _pair(stride), _pair(padding), _pair(dilation), groups
    return _Convolution.apply(input, weight, bias, geometry)


class _Convolution(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        wanted = ctx.needs_input_grad
        of_x, of_weight = _Backward.apply(grad, *ctx.saved_tensors, ctx.geometry, wanted[:2])
        return of_x, of_weight, grad.sum((0, 2, 3)) if wanted[2] else None, None


class _Backward(Function):
    """Gradients by input and weight: products of what arrives with the weight and with the input."""

    @staticmethod
    def forward(
        ctx, grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight)
        ctx.geometry = geometry
        return _gradients(grad, x, weight, geometry, wanted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_x: Tensor | None, by_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weight = ctx.saved_tensors
        of_grad = of_x = of_weight = None
        if by_x is not None:
            of_grad = F.conv2d(by_x, weight, None, *ctx.geometry)
            if ctx.needs_input_grad[2]:
                of_weight = _gradients(grad, by_x, weight, ctx.geometry, (False, True))[1]
        if by_weight is not None:
            other = F.conv2d(x, by_weight, None, *ctx.geometry)
            of_grad = other if of_grad is None else of_grad.add_(other)
            if ctx.needs_input_grad[1]:
                of_x = _gradients(grad, x, by_weight, ctx.geometry, (True, False))[0]
        return of_grad, of_x, of_weight, None, None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (*wanted, False)
    )[:2]
