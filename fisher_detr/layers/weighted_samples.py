"""Weighted sums of bilinear samples of a map, with derivatives of first and second order.

torch's `grid_sample` has no second derivative, and keeps all samples until the backward pass. Here the points
of a sum are taken one after the other, and sampled again where they are needed: what is in memory at a time
stays small, which on a processor is faster too.

The gradients of `sum_p w_p S(V, x_p)` for a cotangent `g` are made of torch's kernels. Let these gradients,
by map, points and weights, receive the cotangents `a`, `b` and `c`. Of the four pixels around a point, with
values `V_k` and shares `s_k`, the share changes along b by `d_k = b'(grad s_k)`. With `f_k = w d_k + c s_k`
and `q_k = g'V_k` the gradients of second order are

    by g:         w S(a, x) + sum_k f_k V_k
    by the map:   sum_k f_k g, each at its pixel
    by w:         g'S(a, x) + sum_k d_k q_k
    by x:         the gradient of w g'S(a, x), and sum_k q_k grad f_k

The pixels are read, and written, by torch's kernel for the nearest one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

_BILINEAR, _NEAREST, _ZEROS = 0, 1, 0  # as the kernels number them


def weighted_samples(maps: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Sum over points of a map's values between its pixels, 0 outside.

    Args:
        maps: [N, C, H, W].
        points: [N, P, T, 2], x and y; -1 and 1 are the outer edges of the outer pixels.
        weights: [N, P, T].

    Returns:
        [N, C, T].
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # operators that exporters and compilers know
        return (F.grid_sample(maps, points, align_corners=False) * weights[:, None]).sum(2)
    return _WeightedSamples.apply(maps, points, weights)


class _WeightedSamples(Function):
    @staticmethod
    def forward(ctx, maps: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(maps, points, weights)
        total = maps.new_zeros(*maps.shape[:2], points.shape[2])
        for point, weight in _each(points, weights):
            total.addcmul_(_read(maps, point), weight)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Backward.apply(grad, *ctx.saved_tensors, ctx.needs_input_grad)


class _Backward(Function):
    """Gradients by maps, points and weights."""

    @staticmethod
    def forward(
        ctx, grad: Tensor, maps: Tensor, points: Tensor, weights: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, maps, points, weights)
        of_maps, of_points, of_weights = map(torch.zeros_like, (maps, points, weights))
        for point, weight, of_point, of_weight in _each(points, weights, of_points, of_weights):
            found = _gradients(grad * weight, maps, point, _BILINEAR, wanted[:2])
            for total, part in zip((of_maps, of_point), found, strict=True):
                if part is not None:
                    total += part
            if wanted[2]:
                of_weight += _dot(grad, _read(maps, point))
        return tuple(
            total if want else None
            for total, want in zip((of_maps, of_points, of_weights), wanted, strict=True)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *by: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *inputs = ctx.saved_tensors
        by_maps, *others = by
        found = _Second(*map(torch.zeros_like, ctx.saved_tensors))
        if by_maps is not None:
            _through_maps(found, grad, inputs, by_maps)
        if any(other is not None for other in others):
            _through_pixels(found, grad, inputs, others)
        return *found, None


class _Second(NamedTuple):
    """What gradients of second order are added to."""

    of_grad: Tensor
    of_maps: Tensor
    of_points: Tensor
    of_weights: Tensor


def _through_maps(into: _Second, grad: Tensor, inputs: Sequence[Tensor], by_maps: Tensor) -> None:
    """With S, which is linear in the map."""
    _, points, weights = inputs
    for point, weight, of_point, of_weight in _each(points, weights, into.of_points, into.of_weights):
        values = _read(by_maps, point)
        into.of_grad.addcmul_(values, weight)
        of_weight += _dot(grad, values)
        of_point += _gradients(grad * weight, by_maps, point, _BILINEAR, (False, True))[1]


def _through_pixels(
    into: _Second, grad: Tensor, inputs: Sequence[Tensor], by: Sequence[Tensor | None]
) -> None:
    """With the values and shares of the four pixels."""
    maps, points, weights = inputs
    by_points, by_weights = (
        torch.zeros_like(x) if by_x is None else by_x for x, by_x in zip(inputs[1:], by, strict=True)
    )
    for pixel in _pixels_around(points, maps):
        along = by_points[..., 0] * pixel.slope[..., 0] + by_points[..., 1] * pixel.slope[..., 1]
        factors = weights * along + by_weights * pixel.share
        seen = torch.empty_like(weights)
        for point, factor, seen_here in _each(pixel.points, factors, seen):
            values = _read(maps, point, "nearest")
            into.of_grad.addcmul_(values, factor)
            into.of_maps.add_(_gradients(grad * factor, maps, point, _NEAREST, (True, False))[0])
            seen_here.copy_(_dot(grad, values))
        into.of_weights.addcmul_(along, seen)
        bent = (weights[..., None] * pixel.bend) * by_points.flip(-1)
        into.of_points.addcmul_(seen[..., None], bent.addcmul_(by_weights[..., None], pixel.slope))


class _Pixel(NamedTuple):
    """One of the four pixels around each point.

    Attributes:
        points: [N, P, T, 2], its center.
        share: [N, P, T], its part in the sample.
        slope: [N, P, T, 2], gradient of the share by the point.
        bend: the second derivative by x and y; those by x or y alone are 0.
    """

    points: Tensor
    share: Tensor
    slope: Tensor
    bend: float


def _pixels_around(points: Tensor, maps: Tensor) -> Iterator[_Pixel]:
    height, width = maps.shape[2:]
    unit = points.new_tensor([width / 2, height / 2])  # pixels
    position = (points + 1) * unit - 0.5
    first = position.floor()
    second_share = position - first
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        offset = points.new_tensor([column, row])
        sign = 2 * offset - 1
        shares = 1 - offset + sign * second_share
        yield _Pixel(
            (first + offset + 0.5) / unit - 1,
            shares[..., 0] * shares[..., 1],
            sign * unit * shares.flip(-1),
            (2 * column - 1) * (2 * row - 1) * width * height / 4,
        )


def _each(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """One point after the other: views of the second dimension, which is kept."""
    return zip(*(tensor.split(1, 1) for tensor in tensors), strict=True)


def _read(maps: Tensor, point: Tensor, mode: str = "bilinear") -> Tensor:
    """`[N, C, T]` values at `[N, 1, T, 2]`."""
    return F.grid_sample(maps, point, mode, align_corners=False).squeeze(2)


def _gradients(
    grad: Tensor, maps: Tensor, point: Tensor, mode: int, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    of_maps, of_point = torch.ops.aten.grid_sampler_2d_backward(
        grad[:, :, None], maps, point, mode, _ZEROS, False, wanted
    )
    return of_maps if wanted[0] else None, of_point if wanted[1] else None


def _dot(left: Tensor, values: Tensor) -> Tensor:
    """Over the channels, `[N, 1, T]`; uses up `values`."""
    return values.mul_(left).sum(1, keepdim=True)
