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

    # `level - x / scale` inside the range, the clipped level outside (LSQ, arXiv 1902.08153, equation 3); the
    # range reaches half a step beyond its outermost levels, where the paper's ends at them.
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
        per_item: divide it by the square root of the values of each item as well, along the first dimension:
            then it is the same however a batch is split.
    """

    gradient: StepGradient = StepGradient.LSQ
    factor: float = 1.0
    per_item: bool = False

    def factor_of(self, x: Tensor) -> float:
        """The factor for a tensor `[N, ...]` of values."""
        return self.factor / max(1, x[:1].numel()) ** 0.5 if self.per_item else self.factor


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
        Tensor: of the shape and dtype of `x`; all NaN where a value is NaN or infinite.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    return _FakeQuantize.apply(wide, scale, zero_point, spec, step).to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    """The gradient is linear in what arrives, with constant factors, so it has gradients of any order.

    It saves one byte for each value, and the values themselves only where the scale is learned.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, scale: Tensor, zero_point: Tensor | int, spec: QuantSpec, step: LearnedStep
    ) -> Tensor:
        values, inside = _values(x, scale, zero_point, spec)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(inside, x, scale, values)
        elif ctx.needs_input_grad[0]:
            ctx.save_for_backward(inside)
        ctx.spec, ctx.step = spec, step
        return values

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        inside, *rest = ctx.saved_tensors
        of_x = grad * inside
        of_scale = None
        if ctx.needs_input_grad[1]:
            x, scale, values = (tensor.detach() for tensor in rest)  # constants of the second derivative
            # The slope is (values - x) / scale or 0 inside the range, values / scale outside.
            left_out = values if ctx.step.gradient is StepGradient.PACT else x
            total = _dot(grad, values, scale, ctx.spec) - _dot(of_x, left_out, scale, ctx.spec)
            of_scale = total * (ctx.step.factor_of(x) / scale)
        return (of_x if ctx.needs_input_grad[0] else None), of_scale, None, None, None


def _values(x: Tensor, scale: Tensor, zero_point: Tensor | int, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Fake-quantized values, and which lie inside the range: the outermost levels count as inside."""
    if spec.per_channel and not spec.symmetric:  # which no kernel fuses
        zero = _align(zero_point, x, spec)
        levels = _round(_ratio(x, scale, spec), zero)
        clipped = levels.clamp(spec.qmin, spec.qmax)
        return (clipped - zero).mul_(_align(scale, x, spec)), levels == clipped
    # The kernels turn NaN into a level, and nobody would see it: it spoils the scale instead.
    scale = scale + 0 * x.sum()
    zero = torch.as_tensor(zero_point, dtype=torch.int32, device=x.device).flatten()[:1]
    if not spec.per_channel and x.dtype == scale.dtype == torch.float32:
        return _rounded(x, scale, zero, spec)
    levels, inside = _rounded(_ratio(x, scale, spec), torch.ones(1, device=x.device), zero, spec)
    return levels.mul_(_align(scale, x, spec)), inside


def _rounded(x: Tensor, scale: Tensor, zero: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """One pass over the values of a tensor with one scale, both of float32, or a scale of 1."""
    enabled = torch.ones(1, dtype=torch.uint8, device=x.device)
    return torch._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
        x, scale, zero, enabled, spec.qmin, spec.qmax
    )


def _dot(left: Tensor, right: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Sum of products over the values of each scale, of the shape of `scale`."""
    if spec.per_channel:
        return (left * right).flatten(1).sum(1)
    if left.stride() == right.stride() and not torch.is_grad_enabled():
        flat = [torch.as_strided(x, (x.numel(),), (1,)) for x in (left, right) if _is_dense(x)]
        if len(flat) == 2:
            return torch.dot(*flat).view_as(scale)  # no tensor of products
    return (left * right).sum().view_as(scale)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


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
