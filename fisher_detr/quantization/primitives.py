"""Quantization of tensors as pure functions.

`level = clamp(round(x / scale) + zero_point, qmin, qmax)`, round half to even, and back by
`(level - zero_point) * scale`: the definition of ONNX' QuantizeLinear and DequantizeLinear, so that what is
trained here and what is shipped are the same numbers. Half precision is quantized in float32.
"""

import torch
from torch import Tensor

from fisher_detr.structures import QuantSpec


def quantize(x: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Tensor | int = 0) -> Tensor:
    """Round to integer levels.

    Args:
        x: `[C, ...]` values.
        scale: `[C]` when `spec.per_channel`, else `[1]`; positive.
        spec: width and range.
        zero_point: level of the value 0, of the shape of `scale`.

    Returns:
        Tensor: levels of the shape of `x`, int8 for symmetric specs and uint8 for affine ones.
    """
    levels = _round(_divide(x, scale, spec), _align(zero_point, x, spec)).clamp_(spec.qmin, spec.qmax)
    return levels.to(torch.int8 if spec.symmetric else torch.uint8)


def dequantize(levels: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Tensor | int = 0) -> Tensor:
    """Values of integer levels, in the dtype of `scale`; arguments as in `quantize`."""
    return (levels.to(scale.dtype) - _align(zero_point, levels, spec)) * _align(scale, levels, spec)


def fake_quantize(x: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Tensor | int = 0) -> Tensor:
    """Quantize and dequantize, with straight-through gradients of any order.

    The forward value equals `dequantize(quantize(x))` bit for bit. The gradient with respect to `x` is 1
    where `x` lies inside the range and 0 where it is clipped. A `scale` that requires gradient receives that
    of a learned step (LSQ, arXiv 1902.08153): `level - x / scale` inside, the clipped level outside.

    Args:
        x: `[C, ...]` values; half precision is computed in float32.
        scale: `[C]` when `spec.per_channel`, else `[1]`; positive.
        spec: width and range.
        zero_point: level of the value 0, of the shape of `scale`.

    Returns:
        Tensor: of the shape and dtype of `x`.
    """
    zero = _align(zero_point, x, spec)
    levels = _RoundStraightThrough.apply(_divide(x, scale, spec), zero, spec)
    return ((levels - zero) * _align(scale, x, spec)).to(x.dtype)


class _RoundStraightThrough(torch.autograd.Function):
    """Rounds and clips to levels; the gradient is multiplied by a constant mask, so it has a gradient again.

    It saves one byte for each value, where autograd's `clamp` would keep a float copy.
    """

    @staticmethod
    def forward(ctx, ratio: Tensor, zero: Tensor | int, spec: QuantSpec) -> Tensor:
        levels = _round(ratio, zero)
        if ctx.needs_input_grad[0]:
            # Values that round to the outermost level count as inside: the largest weight keeps its gradient.
            ctx.save_for_backward((levels >= spec.qmin) & (levels <= spec.qmax))
        return levels.clamp_(spec.qmin, spec.qmax)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


def _divide(x: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    return x / _align(scale, x, spec)


def _round(ratio: Tensor, zero: Tensor | int) -> Tensor:
    # Adding the zero point, even 0, also turns -0.0 into the 0.0 that an integer level gives.
    return torch.round(ratio).add_(zero)


def _align(per_channel: Tensor | int, x: Tensor, spec: QuantSpec) -> Tensor | int:
    """View `[C]` as `[C, 1, ..., 1]`, so that it broadcasts over the channels of `x`."""
    if isinstance(per_channel, int) or not spec.per_channel:
        return per_channel
    return per_channel.view(-1, *[1] * (x.dim() - 1))
