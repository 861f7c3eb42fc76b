"""Repeats the rounding of one forward pass in another, so that the two differ smoothly.

Between the two gradients of a finite difference (method.md section 4) an activation moves by less than a
level, and rounding would turn this into noise. A frozen quantizer moves what it gave before instead.
"""

from collections.abc import Callable

from torch import Tensor

from fisher_detr.quantization.primitives import LearnedStep, move_quantized
from fisher_detr.structures import QuantSpec


class RoundingTape:
    """The roundings of one quantizer, call by call: recorded first, then repeated in the same order."""

    def __init__(self):
        """Start recording."""
        self._entries: list[tuple[Tensor, Tensor]] = []  # inputs and outputs
        self._position: int | None = None

    def rewind(self) -> None:
        """Repeat from the first call on."""
        self._position = 0

    def round(
        self,
        x: Tensor,
        quantized: Callable[[Tensor], Tensor],
        scale: Tensor,
        zero_point: Tensor | int,
        spec: QuantSpec,
        step: LearnedStep,
    ) -> Tensor:
        """Fake-quantize while recording; afterwards move the outputs of then, with the gradients of then.

        Args:
            x: input of the quantizer.
            quantized: fake-quantizes.
            scale: of the quantizer, `[1]`.
            zero_point: level of the value 0.
            spec: width and range.
            step: how the gradient of a learned scale is formed.

        Raises:
            RuntimeError: there were fewer calls before, or of another shape.
        """
        if self._position is None:
            values = quantized(x)
            self._entries.append((x.detach(), values.detach()))
            return values
        return move_quantized(x, *self._next(x), scale, spec, zero_point, step)

    def _next(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._position >= len(self._entries) or self._entries[self._position][0].shape != x.shape:
            raise RuntimeError(
                f"call {self._position} of a frozen quantizer has an input of shape {tuple(x.shape)}, unlike "
                "the pass that was recorded: both passes must take the same images through the same layers"
            )
        self._position += 1
        return self._entries[self._position - 1]
