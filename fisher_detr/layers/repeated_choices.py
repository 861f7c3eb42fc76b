"""Repeats the choices that piecewise linear operators make, so that two passes differ smoothly.

Between the two gradients of a finite difference some units of a ReLU are switched on or off. Each makes the
gradient jump, and a jump over a small step is larger than all that is smooth (docs/qat.md has the numbers).
What does not move at all, such as a frozen stem, need not be computed again.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fisher_detr.layers.kept_tensor import KeptTensor
from fisher_detr.layers.run_once import RunOnce

_IN_PLACE = {torch.relu_, Tensor.relu_}
_RELU = {F.relu, torch.relu, Tensor.relu} | _IN_PLACE
_PRELU = {F.prelu, torch.prelu, Tensor.prelu}


@contextlib.contextmanager
def repeating_choices(frozen: Sequence[nn.Module] = ()) -> Iterator[Callable[[], None]]:
    """Remember which units of ReLUs and PReLUs are off and where the maxima of poolings are, to repeat it.

    Of any model, in the order of the calls; operators inside of compiled code are not seen.

    Args:
        frozen: modules without a parameter that is trained, none of which has a part in common with anything
            else. One that is called once with a tensor, gives one, gets the same again, draws no random
            numbers and writes into no buffer, is not run again, and hooks within it are not called.

    Yields:
        A function to be called before every pass that repeats the remembered one.
    """
    choices = _Choices()
    once = [RunOnce(module, choices) for module in frozen]

    def rewind() -> None:
        for repeated in (choices, *once):
            repeated.rewind()

    with contextlib.ExitStack() as stack:
        for context in (choices, *once):
            stack.enter_context(context)
        yield rewind


class _Choices(TorchFunctionMode):
    """Masks and indices in the order of the calls."""

    def __init__(self):
        super().__init__()
        self._made: list[tuple[torch.Size, KeptTensor]] = []  # with the shape of the input
        self._position: int | None = None

    def rewind(self) -> None:
        self._position = 0

    def count(self) -> int:
        return len(self._made) if self._position is None else self._position

    def skip_to(self, count: int) -> None:
        self._position = count

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        if func in _RELU:
            return self._relu(func, *args, **kwargs)
        if func in _PRELU:
            return self._prelu(*args, **kwargs)
        if func is F.max_pool2d:
            return self._max_pool(*args, **kwargs)
        return func(*args, **kwargs)

    def _relu(self, func: Callable, x: Tensor, inplace: bool = False) -> Tensor:
        in_place = inplace or func in _IN_PLACE
        if self._position is None:
            values = torch.relu_(x) if in_place else torch.relu(x)
            self._made.append((x.shape, KeptTensor(values)))
            return values
        return _Repeat.apply(x, self._next(x), in_place)

    def _prelu(self, x: Tensor, weight: Tensor) -> Tensor:
        if self._position is None:
            self._made.append((x.shape, KeptTensor(x)))
            return torch.prelu(x, weight)
        slope = weight.view(-1, *[1] * (x.dim() - 2)) if weight.numel() > 1 else weight
        return _RepeatSloped.apply(x, slope, self._next(x))

    def _max_pool(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._position is None:
            values, chosen = F.max_pool2d(x, *args, **kwargs | {"return_indices": True})
            self._made.append((x.shape, KeptTensor(chosen)))
            return values
        chosen = self._next(x)  # [..., H, W], counted within a map
        values = x.flatten(-2).gather(-1, chosen.flatten(-2)).view(chosen.shape)
        is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return values.contiguous(memory_format=torch.channels_last) if is_last else values

    def _next(self, x: Tensor) -> Tensor:
        if self._position >= len(self._made) or self._made[self._position][0] != x.shape:
            raise RuntimeError(
                f"call {self._position} of a ReLU or maximum has an input of shape {tuple(x.shape)}, unlike "
                "the pass that was remembered: both passes must take the same images through the same layers"
            )
        self._position += 1
        return self._made[self._position - 1][1].read()


class _Repeat(torch.autograd.Function):
    """The units that gave something before, whatever they get now: one vectorized pass, and one backwards."""

    @staticmethod
    def forward(ctx, x: Tensor, before: Tensor, in_place: bool) -> Tensor:
        ctx.save_for_backward(before)
        if not in_place:
            return torch.ops.aten.threshold_backward(x, before, 0.0)
        ctx.mark_dirty(x)
        return torch.ops.aten.threshold_backward.grad_input(x, before, 0.0, grad_input=x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.aten.threshold_backward(grad, *ctx.saved_tensors, 0.0), None, None


class _RepeatSloped(torch.autograd.Function):
    """As `_Repeat`; the other units are multiplied by a slope, which broadcasts with the input."""

    @staticmethod
    def forward(ctx, x: Tensor, slope: Tensor, before: Tensor) -> Tensor:
        on, off = _parted(x, before)
        ctx.save_for_backward(slope, before, off)
        return on.addcmul_(off, slope)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        slope, before, off = ctx.saved_tensors
        of_slope = (grad * off).sum_to_size(slope.shape)
        on, off = _parted(grad, before)
        return on.addcmul_(off, slope), of_slope, None


def _parted(x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Of the units that were on, and of the others; each is 0 elsewhere. A mask of booleans takes longer."""
    on = torch.ops.aten.threshold_backward(x, before, 0.0)
    above_zero = torch.finfo(before.dtype).tiny
    return on, torch.ops.aten.hardtanh_backward(x, before, -math.inf, above_zero)
