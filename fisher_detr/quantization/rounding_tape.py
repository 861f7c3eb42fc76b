"""Repeats the rounding of one forward pass in another, so that the two differ smoothly.

Between the two gradients of a finite difference (method.md section 4) an activation moves by less than a
level, and rounding would turn this into noise. A frozen quantizer moves what it gave before instead.
"""

from torch import Tensor

from fisher_detr.layers.kept_tensor import KeptTensor
from fisher_detr.quantization.primitives import LearnedStep, fake_quantize, move_quantized
from fisher_detr.structures import QuantSpec


class RoundingTape:
    """The roundings of one quantizer, call by call: recorded first, then repeated in the same order."""

    def __init__(self):
        """Start recording."""
        self._entries: list[tuple[KeptTensor, KeptTensor]] = []  # inputs and outputs
        self._position: int | None = None

    def rewind(self) -> None:
        """Repeat from the first call on."""
        self._position = 0

    def fake_quantize(
        self, x: Tensor, scale: Tensor, spec: QuantSpec, zero_point: Tensor | int, step: LearnedStep
    ) -> Tensor:
        """Fake-quantize while recording; afterwards move the outputs of then, with the gradients of then.

        Args as in `primitives.fake_quantize`.

        Raises:
            RuntimeError: there were fewer calls before, or of another shape; or a tensor of then was changed
                in place.
        """
        if self._position is None:
            values = fake_quantize(x, scale, spec, zero_point, step)
            self._entries.append((KeptTensor(x), KeptTensor(values)))
            return values
        before, values = self._next(x)
        return move_quantized(x, before, values, scale, spec, zero_point, step)

    def _next(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._position >= len(self._entries) or self._entries[self._position][0].shape != x.shape:
            raise RuntimeError(
                f"call {self._position} of a frozen quantizer has an input of shape {tuple(x.shape)}, unlike "
                "the pass that was recorded: both passes must take the same images through the same layers"
            )
        self._position += 1
        before, values = self._entries[self._position - 1]
        return before.read(), values.read()
