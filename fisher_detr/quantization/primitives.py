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
    where `x` lies inside the range and 0 where it is clipped (exactly half a step beyond it: either). A
    `scale` that requires gradient receives that of a learned step.

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


def nearest_values(x: Tensor, scale: Tensor, bound: Tensor) -> Tensor:
    """What `fake_quantize` returns of finite values, each of its own scale and width.

    Args:
        x: float32 or float64.
        scale: broadcasts with `x`.
        bound: the largest level, of a symmetric range; of the shape and dtype of `scale`.

    Returns:
        Tensor: of the shape of `x`.
    """
    levels = torch.minimum(torch.maximum(_round(x * scale.reciprocal(), 0), -bound), bound)
    return levels.mul_(scale)


def move_quantized(
    x: Tensor,
    before: Tensor,
    values: Tensor,
    scale: Tensor,
    spec: QuantSpec,
    zero_point: Tensor | int = 0,
    step: LearnedStep = LearnedStep(),  # noqa: B008 - frozen
) -> Tensor:
    """Fake-quantized values, moved as far as the input has moved since: not where they were clipped.

    The gradients, of first order only, are those of `fake_quantize(before)`, which gave the values.

    Args:
        x: `[C, ...]` the input now.
        before: the input then.
        values: what it was quantized to.
        scale: as in `fake_quantize`, like all that follow.
        spec: width and range.
        zero_point: level of the value 0.
        step: how the gradient of `scale` is formed.
    """
    return _MoveQuantized.apply(x, scale, before, values, zero_point, spec, step).to(values.dtype)


class _FakeQuantize(torch.autograd.Function):
    """The gradient is linear in what arrives, with constant factors, so it has gradients of any order."""

    @staticmethod
    def forward(
        ctx, x: Tensor, scale: Tensor, zero_point: Tensor | int, spec: QuantSpec, step: LearnedStep
    ) -> Tensor:
        zero = _zero(zero_point, x, spec)
        # Clipping hides an infinite value, and a kernel turns NaN into a level: it spoils the scale instead.
        values, inside = _values(x, scale + 0 * x.sum(), zero, spec)
        if any(ctx.needs_input_grad):
            learned = ctx.needs_input_grad[1]
            kept = x if learned or inside is None else None
            ctx.save_for_backward(kept, scale, values if learned else None, inside)
        ctx.zero, ctx.spec, ctx.step = zero, spec, step
        return values

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        return *_gradients(ctx, grad), None, None, None


class _MoveQuantized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        scale: Tensor,
        before: Tensor,
        values: Tensor,
        zero_point: Tensor | int,
        spec: QuantSpec,
        step: LearnedStep,
    ) -> Tensor:
        ctx.zero, ctx.spec, ctx.step = _zero(zero_point, x, spec), spec, step
        ctx.save_for_backward(before, scale, values if ctx.needs_input_grad[1] else None, None)
        return _where_inside(x - before, before, scale, ctx.zero, spec, in_place=True).add_(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, grad), None, None, None, None, None


def _gradients(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """By the values and by the scale."""
    # Constants of the second derivative.
    x, scale, values, inside = (t if t is None else t.detach() for t in ctx.saved_tensors)
    of_x = _where_inside(grad, x, scale, ctx.zero, ctx.spec) if inside is None else grad * inside
    of_scale = None
    if ctx.needs_input_grad[1]:
        # The slope is (values - x) / scale or 0 inside the range, values / scale outside.
        left_out = values if ctx.step.gradient is StepGradient.PACT else x
        total = _dot(grad, values, scale, ctx.spec) - _dot(of_x, left_out, scale, ctx.spec)
        of_scale = total * (ctx.step.factor_of(x) / scale)
    return (of_x if ctx.needs_input_grad[0] else None), of_scale


def _zero(zero_point: Tensor | int, x: Tensor, spec: QuantSpec) -> Tensor | int:
    """The zero point, to broadcast; one number on a processor, where reading it costs nothing."""
    is_one = isinstance(zero_point, Tensor) and not spec.per_channel and not x.is_cuda
    return int(zero_point) if is_one else _align(zero_point, x, spec)


def _values(x: Tensor, scale: Tensor, zero: Tensor | int, spec: QuantSpec) -> tuple[Tensor, Tensor | None]:
    """Fake-quantized values; on a GPU also which lie inside the range.

    A processor makes vectorized passes over a new tensor, in a fifth of the time of torch's fused kernel,
    which goes value by value; a GPU takes the kernel, where there is one.
    """
    if x.is_cuda and (spec.symmetric or not spec.per_channel):
        return _fused(x, scale, zero, spec)
    levels = _round(_ratio(x, scale, spec), zero).clamp_(spec.qmin, spec.qmax)
    return levels.sub_(zero).mul_(_align(scale, x, spec)), None


def _fused(x: Tensor, scale: Tensor, zero: Tensor | int, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """One pass over the values, by a kernel of one scale: those of many channels are divided before."""
    zero = torch.as_tensor(zero, dtype=torch.int32, device=x.device).flatten()[:1]
    if not spec.per_channel and x.dtype == scale.dtype == torch.float32:
        return _one_scale(x, scale, zero, spec)
    levels, inside = _one_scale(_ratio(x, scale, spec), torch.ones(1, device=x.device), zero, spec)
    return levels.mul_(_align(scale, x, spec)), inside


def _one_scale(x: Tensor, scale: Tensor, zero: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    enabled = torch.ones(1, dtype=torch.uint8, device=x.device)
    return torch._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
        x, scale, zero, enabled, spec.qmin, spec.qmax
    )


def _where_inside(
    grad: Tensor, x: Tensor, scale: Tensor, zero: Tensor | int, spec: QuantSpec, in_place: bool = False
) -> Tensor:
    """The gradient where a value is rounded to a level, 0 where it is clipped to one."""
    low, high = spec.qmin - 0.5 - zero, spec.qmax + 0.5 - zero
    if isinstance(zero, Tensor):
        ratio = _ratio(x, scale, spec)
        return torch.where((ratio > low) & (ratio < high), grad, 0.0)
    if spec.per_channel:
        x, step = _ratio(x, scale, spec), 1.0
    else:
        step = scale.item()
    # That of a clamp: one vectorized pass.
    bounds = low * step, high * step
    if in_place:
        return torch.ops.aten.hardtanh_backward.grad_input(grad, x, *bounds, grad_input=grad)
    return torch.ops.aten.hardtanh_backward(grad, x, *bounds)


def _dot(left: Tensor, right: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Sum of products over the values of each scale, of the shape of `scale`."""
    if spec.per_channel:
        # Flattened, a product that is channels last would be copied.
        return (left * right).sum(tuple(range(1, left.dim()))) if left.dim() > 1 else left * right
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
