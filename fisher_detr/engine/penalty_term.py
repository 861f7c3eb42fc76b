"""Brings the Fisher-trace penalty into the loss dict of a model that is trained."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.engine.finite_guard import all_finite
from fisher_detr.engine.repeatable_loss import NotFiniteError
from fisher_detr.engine.trace_penalty import FisherTracePenalty, trained
from fisher_detr.fisher import SquaredNorm
from fisher_detr.quantization import ActivationQuantizer, bypassed

LOSS_NAME = "loss_fisher_trace"
# A parameter, and a part of its gradient.
Contribution = tuple[nn.Parameter, Tensor]


@dataclasses.dataclass
class Reference:
    """Mean trace of the warm-up: what the penalty is divided by.

    Attributes:
        value: the mean so far.
        count: traces in it.
    """

    value: float = 1.0
    count: int = 0

    def update(self, trace: float, warmup: float) -> None:
        """Take a trace into the mean, in the warm-up or where there is none yet; a zero says nothing."""
        if trace > 0 and (warmup < 1.0 or self.count == 0):
            self.count += 1
            self.value = trace if self.count == 1 else self.value + (trace - self.value) / self.count


class PenaltyTerm:
    """Adds `loss_fisher_trace` to the losses of a model, once in some iterations.

    The penalty is computed before the forward pass of the training, so that one graph at a time is in memory.

    Attributes:
        due: compute it in the next training pass; otherwise add nothing.
        warmup: part of lambda that counts by now.
        measured: `fisher_trace`, without lambda, and `fisher_gradient_norm`, that of the penalty's gradient
            before its clipping and the factor k, of every pass since they were last cleared.
    """

    def __init__(self, penalty: FisherTracePenalty, told: Callable[[list[Contribution]], None] | None = None):
        """Args are the penalty and who is told, in the backward pass, what it adds to the gradients."""
        self.penalty = penalty
        self.reference = Reference()
        self.due = False
        self.warmup = 1.0
        self.measured: dict[str, list[float]] = {}
        self._told = told
        self._checked = False
        self._measures = False
        self._found: SquaredNorm | None = None
        self._failure: NotFiniteError | None = None

    def attach(self, model: nn.Module) -> contextlib.ExitStack:
        """Watch the training passes of a model, which gives a dict of losses; close the result to stop."""
        handles = contextlib.ExitStack()
        handles.callback(model.register_forward_pre_hook(self._before).remove)
        # Ahead of those that look at the losses.
        handles.callback(model.register_forward_hook(self._after, prepend=True).remove)
        return handles

    def _before(self, model: nn.Module, inputs: tuple) -> None:
        if self._measures:  # the loss that is penalised may itself be one of a training pass
            return
        self._found = self._failure = None
        if not (model.training and torch.is_grad_enabled()):
            return
        self._measures = True
        try:
            self._found = self._measure(model, inputs[0])
        except NotFiniteError as error:
            self._failure = error  # the losses may not be finite either, and the guard says where that began
        finally:
            self._measures = False

    def _measure(self, model: nn.Module, batch: Sequence[Any]) -> SquaredNorm | None:
        if not self._checked:
            # In the first pass, whenever the penalty begins: quantizers may have no scale yet.
            with bypassed(model, ActivationQuantizer):
                self.penalty.check(model, batch[:1])
            self._checked = True
        return self.penalty.measure(model, batch) if self.due else None

    def _after(self, model: nn.Module, _inputs: tuple, losses: Any) -> Any:
        if self._failure and not self._measures and all_finite(losses):
            raise self._failure
        if self._measures or self._found is None:
            return losses
        if not isinstance(losses, dict):
            raise TypeError(
                f"the model gives a {type(losses).__name__} in training, expected a dict of losses, which "
                f"{LOSS_NAME} can be added to"
            )
        found, self._found = self._found, None
        weight = self._weight(found.value.item())
        gradients = list(found.gradients)
        factor = self._factor(gradients, weight)
        return losses | {
            LOSS_NAME: _WithGradient.apply(
                weight * found.value, gradients, factor, self._told, *trained(model)
            )
        }

    def _weight(self, trace: float) -> float:
        """Lambda by now, over the reference trace."""
        settings = self.penalty.settings
        self.measured.setdefault("fisher_trace", []).append(trace)
        if settings.normalize:
            self.reference.update(trace, self.warmup)
        return settings.weight * self.warmup / (self.reference.value if settings.normalize else 1.0)

    def _factor(self, gradients: list[Tensor], weight: float) -> float:
        """For gradients: those of `weight x`, scaled down to the greatest norm, then times the interval."""
        settings = self.penalty.settings
        norm = weight * torch.stack(torch._foreach_norm(gradients)).norm().item()
        if not math.isfinite(norm):
            raise NotFiniteError(
                "the gradient of the Fisher-trace penalty is not finite, and its value is: lower "
                "SOLVER.BASE_LR, or look at the images of this iteration"
            )
        self.measured.setdefault("fisher_gradient_norm", []).append(norm)
        shrink = min(1.0, settings.clip_norm / norm) if settings.clip_norm and norm else 1.0
        return weight * settings.interval * shrink


class _WithGradient(torch.autograd.Function):
    """A value whose gradients, but for a factor, are given, and used up by one backward pass."""

    @staticmethod
    def forward(
        ctx,
        value: Tensor,
        gradients: list[Tensor],
        factor: float,
        told: Callable | None,
        *parameters: nn.Parameter,
    ) -> Tensor:
        ctx.gradients, ctx.factor, ctx.told, ctx.parameters = gradients, factor, told, parameters
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # a second pass would multiply again: it fails
        torch._foreach_mul_(gradients, ctx.factor * grad)
        if ctx.told:
            ctx.told(list(zip(ctx.parameters, gradients, strict=True)))
        return None, None, None, None, *gradients
