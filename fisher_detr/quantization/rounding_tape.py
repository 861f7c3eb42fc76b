"""Repeats the rounding of one forward pass in another, so that the two differ smoothly.

Between the two gradients of a finite difference (method.md section 4) an activation moves by less than a
level, and rounding would turn this into noise. A frozen quantizer adds what rounding added before instead.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fisher_detr.quantization.primitives import LearnedStep, StepGradient, dot


class RoundingTape:
    """The roundings of one quantizer, call by call: recorded first, then repeated in the same order."""

    def __init__(self):
        """Start recording."""
        self._entries: list[tuple[Tensor, Tensor]] = []
        self._position: int | None = None

    def rewind(self) -> None:
        """Repeat from the first call on."""
        self._position = 0

    def round(
        self, x: Tensor, quantized: Callable[[Tensor], Tensor], scale: Tensor, step: LearnedStep
    ) -> Tensor:
        """Fake-quantize while recording; afterwards `x * inside + residual`, with the gradients of then.

        Args:
            x: input of the quantizer.
            quantized: fake-quantizes.
            scale: of the quantizer, `[1]`.
            step: how the gradient of a learned scale is formed.

        Raises:
            RuntimeError: there were fewer calls before, or of another shape.
        """
        if self._position is None:
            values = quantized(x)
            self._entries.append(_entry(x.detach(), values.detach(), scale.detach()))
            return values
        inside, residual = self._next(x)
        return _Repeat.apply(x, scale, inside, residual, step)

    def _next(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._position >= len(self._entries) or self._entries[self._position][0].shape != x.shape:
            raise RuntimeError(
                f"call {self._position} of a frozen quantizer has an input of shape {tuple(x.shape)}, unlike "
                "the pass that was recorded: both passes must take the same images through the same layers"
            )
        self._position += 1
        return self._entries[self._position - 1]


def _entry(x: Tensor, values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Which values were rounded and not clipped, and what has to be added to them (or stands for them)."""
    inside = (values - x).abs_() <= 0.5001 * scale  # a clipped value is farther from its level
    return inside, values - x * inside  # products with masks: they are vectorized, and `where` is not


class _Repeat(torch.autograd.Function):
    """Values that are moved by what rounding did before, with the gradients of then."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, inside: Tensor, residual: Tensor, step: LearnedStep) -> Tensor:
        ctx.save_for_backward(scale, inside, residual)
        ctx.gradient, ctx.factor = step.gradient, step.factor_of(x)
        return (x * inside).add_(residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        scale, inside, residual = ctx.saved_tensors
        of_x, of_scale = grad * inside, None
        if ctx.needs_input_grad[1]:
            clipped = grad - of_x if ctx.gradient is StepGradient.PACT else grad
            of_scale = dot(clipped, residual) * ctx.factor / scale  # PACT: no slope inside the range
        return of_x, of_scale, None, None, None
