"""The trace of the critical Fisher information as a penalty, with its gradient (method.md section 4).

`tr(I_F) = E_x ||g(x)||^2`, where g is the gradient of the critical objective with respect to the weights that
the layers multiply with. Its gradient with respect to any parameter needs second derivatives of the loss:
exactly, by differentiating twice, or as a finite difference along g.
"""

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

# Averages tensors over all processes; leaves them as they are.
Mean = Callable[[Sequence[Tensor]], Sequence[Tensor]]
_INSTEAD = "take the method finite_difference"


class PenaltyMethod(enum.StrEnum):
    """How the gradient of `||g||^2` is found."""

    EXACT = "exact"  # double backward
    FINITE_DIFFERENCE = "finite_difference"  # 2 ||g|| (grad L(w + r g / ||g||) - grad L(w)) / r


class TraceEstimate(enum.StrEnum):
    """Of which gradient the squared norm is taken."""

    PER_IMAGE = "per_image"  # of each image's, then the mean: the trace
    # Of the batch's mean gradient: tr / B + (1 - 1 / B) ||E g||^2, which is not the trace.
    MINIBATCH = "minibatch"


class RepeatableLoss(Protocol):
    """A scalar loss that can be evaluated twice with the same discrete decisions."""

    def __call__(self) -> Tensor:
        """Evaluate, deciding anew (matching, rounding, dropout masks, units of ReLUs)."""

    def again(self) -> Tensor:
        """Evaluate with the decisions of the evaluation before."""


@dataclasses.dataclass(frozen=True)
class SquaredNorm:
    """`||g||^2` and its gradient.

    Attributes:
        value: scalar.
        gradients: with respect to each tensor, of its shape; tensors that nobody else holds.
    """

    value: Tensor
    gradients: tuple[Tensor | None, ...]


def squared_norm(
    loss: RepeatableLoss,
    weights: Sequence[Tensor],
    parameters: Sequence[Tensor],
    method: PenaltyMethod,
    radius: float = 0.0,
    mean: Mean | None = None,
) -> SquaredNorm:
    """Squared norm of the gradient with respect to weights, and its gradient with respect to all there is.

    Args:
        loss: depends on the weights.
        weights: those that count: leaves that require gradients; they are moved, and put back.
        parameters: what else the penalty's gradient is wanted for.
        method: exact or by a finite difference.
        radius: rho > 0 of the finite difference, whose step r of all weights together is `rho L / ||g||`: by
            the slope alone the loss would grow by this part of itself. One rho then serves models and images
            whose gradients differ by orders of magnitude.
        mean: the norm is that of the mean of all processes' gradients, and the mean of their `gradients` is
            its gradient. None: this process alone.

    Returns:
        The value and its gradients: those of the weights, then of the parameters. None where one has no part.

    Raises:
        ValueError: the loss does not depend on any weight; or it has no second derivative, for `exact`.
    """
    if PenaltyMethod(method) is PenaltyMethod.EXACT:
        return _exact(loss, weights, parameters, mean)
    return _finite_difference(loss, weights, parameters, radius, mean)


def _exact(
    loss: RepeatableLoss, weights: Sequence[Tensor], parameters: Sequence[Tensor], mean: Mean | None
) -> SquaredNorm:
    value = _differentiable(loss())
    gradient = torch.autograd.grad(value, weights, create_graph=True, materialize_grads=True)
    direction = _mean(gradient, mean)
    second = differentiate_again(gradient, [*weights, *parameters], direction)
    return SquaredNorm(_square(direction), tuple(None if part is None else 2 * part for part in second))


def differentiate_again(
    gradient: Sequence[Tensor],
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor],
    retain_graph: bool = False,
    instead: str = _INSTEAD,
) -> tuple[Tensor | None, ...]:
    """Second derivatives along a direction: of `sum_k gradient_k'direction_k` by the parameters.

    Args:
        gradient: differentiated with `create_graph`.
        parameters: what to differentiate by.
        direction: constants of the gradient's shapes.
        retain_graph: keep the graph for another direction.
        instead: what the message proposes where it cannot be done.

    Returns:
        One for each parameter, of its shape; None where it has no part.

    Raises:
        ValueError: an operator of the loss has no second derivative.
    """
    reached = [(g, d) for g, d in zip(gradient, direction, strict=True) if g.requires_grad]
    if not reached:  # the loss is linear in the weights
        return (None,) * len(parameters)
    outputs, directions = zip(*reached, strict=True)
    try:
        return torch.autograd.grad(
            outputs, parameters, directions, retain_graph=retain_graph, allow_unused=True
        )
    except RuntimeError as error:
        if not any(words in str(error) for words in ("is not implemented", "not supported")):
            raise
        raise _only_once(str(error).splitlines()[0], instead) from None


def require_twice_differentiable(loss: Tensor, weights: Sequence[Tensor], instead: str = _INSTEAD) -> None:
    """Refuse an operator that is marked as differentiable once, which `exact` would pass by in silence.

    Autograd puts a node that raises behind such an operator, and does not run it on the way to parameters.

    Raises:
        ValueError: there is such an operator between the weights and the gradient of the loss.
    """
    # The node is there where the gradient that arrives requires one itself.
    arriving = torch.ones_like(loss, requires_grad=True)
    gradient = torch.autograd.grad(loss, weights, arriving, create_graph=True, materialize_grads=True)
    waiting, seen = [part.grad_fn for part in gradient], {None}
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise _only_once("it is marked with once_differentiable", instead)
        waiting += [following for following, _ in node.next_functions]


def _finite_difference(
    loss: RepeatableLoss,
    weights: Sequence[Tensor],
    parameters: Sequence[Tensor],
    radius: float,
    mean: Mean | None,
) -> SquaredNorm:
    if not radius > 0:
        raise ValueError(f"radius of the finite difference is {radius}: expected a number above 0")
    value = _differentiable(loss())
    tensors = [*weights, *parameters]
    before = torch.autograd.grad(value, tensors, allow_unused=True)
    gradient = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, before, strict=False)]
    # Of all processes, which then make the same step, and the same evaluations.
    *direction, level = _mean([*gradient, value], mean)
    squared = _square(direction)
    norm = squared.sqrt()
    if norm == 0 or level == 0:  # a flat piece, or a loss of nothing
        return SquaredNorm(squared, (None,) * len(tensors))
    step = radius * level.abs() / norm
    reached = [tensor for tensor, part in zip(tensors, before, strict=True) if part is not None]
    with _moved(weights, direction, (step / norm).item()):
        again = loss.again()  # even if this process' loss depends on nothing: others may exchange with it
        if not reached:
            return SquaredNorm(squared, (None,) * len(tensors))
        after = torch.autograd.grad(again, reached, materialize_grads=True)
    found = torch._foreach_sub(after, [part for part in before if part is not None])
    torch._foreach_mul_(found, (2 * norm / step).item())
    rest = iter(found)
    return SquaredNorm(squared, tuple(None if part is None else next(rest) for part in before))


@contextlib.contextmanager
def _moved(weights: Sequence[Tensor], direction: Sequence[Tensor], factor: float) -> Iterator[None]:
    """Put weights elsewhere within; they keep their tensors, so that what comes back is what was."""
    before = [weight.data for weight in weights]
    try:
        for weight, value in zip(weights, torch._foreach_add(before, direction, alpha=factor), strict=True):
            weight.data = value
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.data = value


def _only_once(reason: str, instead: str) -> ValueError:
    return ValueError(
        f"the model has an operator without a second derivative ({reason}): {instead}, or replace the "
        "operator"
    )


def _differentiable(loss: Tensor) -> Tensor:
    if not loss.requires_grad:
        raise ValueError(
            "the loss of the Fisher-trace penalty does not depend on any weight: it was computed without "
            "gradients, or on no layer that the penalty is about"
        )
    return loss


def _mean(tensors: Sequence[Tensor], mean: Mean | None) -> Sequence[Tensor]:
    parts = [tensor.detach() for tensor in tensors]
    return mean(parts) if mean else parts


def _square(parts: Sequence[Tensor]) -> Tensor:
    """Of the norm of all together."""
    return torch.stack([part.square().sum() for part in parts]).sum()
