"""Quantization of tensors as pure functions.

`level = clamp(round(x * (1 / scale)) + zero_point, qmin, qmax)`, round half to even, and back by
`(level - zero_point) * scale`: ONNX' QuantizeLinear and DequantizeLinear, but for values within float
rounding of a tie, since these divide by the scale. Multiplying by its reciprocal is what torch's fused
kernels do, so that one definition serves all paths bit for bit. Half precision is quantized in float32.
"""

import dataclasses
import enum

import torch
from torch import Tensor

from fisher_detr.structures import QuantSpec


class StepGradient(enum.StrEnum):
    """Gradient of a learned scale (the step between two levels)."""

    # `level - x / scale` inside the range, the clipped level outside (LSQ, arXiv 1902.08153, equation 3).
    LSQ = "lsq"
    # 0 inside the range, the clipped level outside: that of a clipping bound `alpha = qmax scale` (PACT,
    # arXiv 1805.06085, equation 3), times `qmax`.
    PACT = "pact"


@dataclasses.dataclass(frozen=True)
class LearnedStep:
    """How the gradient of a scale is formed.

    Attributes:
        gradient: LSQ or PACT.
        factor: the gradient is multiplied by it (LSQ: `1 / sqrt(values per scale * qmax)`).
    """

    gradient: StepGradient = StepGradient.LSQ
    factor: float = 1.0


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
    levels = _round(_ratio(x, scale, spec), _align(zero_point, x, spec)).clamp_(spec.qmin, spec.qmax)
    return levels.to(torch.int8 if spec.symmetric else torch.uint8)


def dequantize(levels: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Tensor | int = 0) -> Tensor:
    """Values of integer levels, in the dtype of `scale`; arguments as in `quantize`."""
    return (levels.to(scale.dtype) - _align(zero_point, levels, spec)) * _align(scale, levels, spec)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    spec: QuantSpec,
    zero_point: Tensor | int = 0,
    step: LearnedStep = LearnedStep(),  # noqa: B008 - frozen
) -> Tensor:
    """Quantize and dequantize, with straight-through gradients of any order.

    The forward value equals `dequantize(quantize(x))` bit for bit. The gradient with respect to `x` is 1
    where `x` lies inside the range and 0 where it is clipped. A `scale` that requires gradient receives that
    of a learned step.

    Args:
        x: `[C, ...]` values; half precision is computed in float32.
        scale: `[C]` when `spec.per_channel`, else `[1]`; positive.
        spec: width and range.
        zero_point: level of the value 0, of the shape of `scale`.
        step: how the gradient of `scale` is formed.

    Returns:
        Tensor: of the shape and dtype of `x`. On the fused path (one scale that is not learned, float32 or
            less) NaN becomes a level.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    if spec.per_channel or isinstance(zero_point, int) or scale.requires_grad or x.dtype == torch.float64:
        return _FakeQuantize.apply(wide, scale, zero_point, spec, step).to(x.dtype)
    return torch.fake_quantize_per_tensor_affine(wide, scale, zero_point, spec.qmin, spec.qmax).to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    """The gradient is linear in what arrives, with constant factors, so it has gradients of any order.

    It saves one byte for each value, and the values themselves only where the scale is learned.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, scale: Tensor, zero_point: Tensor | int, spec: QuantSpec, step: LearnedStep
    ) -> Tensor:
        zero = _align(zero_point, x, spec)
        levels = _round(_ratio(x, scale, spec), zero)
        clipped = levels.clamp(spec.qmin, spec.qmax)
        # Values that round to the outermost level count as inside: the largest weight keeps its gradient.
        inside = levels == clipped if any(ctx.needs_input_grad) else None
        values = clipped.sub_(zero).mul_(_align(scale, x, spec))
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(inside, x, scale, values)
        elif ctx.needs_input_grad[0]:
            ctx.save_for_backward(inside)
        ctx.spec, ctx.step = spec, step
        return values

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        inside, *rest = ctx.saved_tensors
        of_scale = None
        if ctx.needs_input_grad[1]:
            x, scale, values = rest
            slope = _slope(x, values, inside, ctx.step.gradient) / _align(scale, x, ctx.spec)
            of_scale = _sum_like(grad * slope, scale, ctx.spec) * ctx.step.factor
        return (grad * inside if ctx.needs_input_grad[0] else None), of_scale, None, None, None


def _slope(x: Tensor, values: Tensor, inside: Tensor, gradient: StepGradient) -> Tensor:
    """Derivative of the fake-quantized values with respect to the scale, times the scale."""
    return values.masked_fill(inside, 0.0) if gradient is StepGradient.PACT else values - x * inside


def _sum_like(x: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Sum over the values of each scale."""
    return x.flatten(1).sum(1) if spec.per_channel else x.sum().view_as(scale)


def _ratio(x: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    return x * _align(scale.reciprocal(), x, spec)


def _round(ratio: Tensor, zero: Tensor | int) -> Tensor:
    # Adding the zero point, even 0, also turns -0.0 into the 0.0 that an integer level gives.
    return ratio.round_().add_(zero)


def _align(per_channel: Tensor | int, x: Tensor, spec: QuantSpec) -> Tensor | int:
    """View `[C]` as `[C, 1, ..., 1]`, so that it broadcasts over the channels of `x`."""
    if isinstance(per_channel, int) or not spec.per_channel:
        return per_channel
    return per_channel.view(-1, *[1] * (x.dim() - 1))
