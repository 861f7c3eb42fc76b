"""The Fisher-trace penalty of a quantized model on a batch (method.md section 4)."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.engine.distributed import mean_over_ranks
from fisher_detr.engine.repeatable_loss import BatchLoss, RepeatableBatchLoss
from fisher_detr.fisher import (
    PenaltyMethod,
    SquaredNorm,
    TraceEstimate,
    require_twice_differentiable,
    squared_norm,
)
from fisher_detr.layers import (
    twice_differentiable,
    without_tf32,
)
from fisher_detr.quantization import (
    QuantizedLayer,
    held_weights,
    is_at_or_below,
    quantized_layers,
    unobserved,
)

_SAME = 1e-3  # relative difference of two evaluations that is a GPU's


@dataclasses.dataclass(frozen=True)
class PenaltySettings:
    """How the penalty `lambda tr(I_F)` is computed; see the keys QUANT.QAT.PENALTY in config.py.

    Attributes:
        weight: lambda >= 0.
        method: exact or finite difference.
        estimate: per image or minibatch.
        interval: k >= 1: once in k iterations, with k times the gradient.
        radius: by which part of itself the slope alone would raise the loss over the step of the difference.
        layers: paths of modules; the trained layers at or below them count; empty: all.
        warmup_iters: iterations over which lambda grows from 0.
        normalize: divide by the mean trace of the warm-up: lambda is the penalty of the model at the start.
        clip_norm: the gradient of the penalty is scaled down to this norm before the factor k; 0: never.
    """

    weight: float
    method: PenaltyMethod = PenaltyMethod.FINITE_DIFFERENCE
    estimate: TraceEstimate = TraceEstimate.PER_IMAGE
    interval: int = 4
    radius: float = 0.001
    layers: tuple[str, ...] = ()
    warmup_iters: int = 0
    normalize: bool = True
    clip_norm: float = 0.1

    def __post_init__(self):
        for name, valid, expected in (
            ("weight", 0 <= self.weight < float("inf"), "a number that is not negative"),
            ("interval", self.interval >= 1, "1 or more iterations"),
            ("radius", 0 < self.radius < float("inf"), "a part of the loss, above 0"),
            ("warmup_iters", self.warmup_iters >= 0, "0 or more iterations"),
            ("clip_norm", self.clip_norm >= 0, "a norm above 0, or 0 for none"),
        ):
            if not valid:
                raise ValueError(
                    f"Fisher-trace penalty: {name} is {getattr(self, name)}, expected {expected}"
                )


class FisherTracePenalty:
    """Computes the penalty on a batch, with its gradient for every trained parameter of the model."""

    def __init__(self, loss: BatchLoss, settings: PenaltySettings):
        """Args are the critical objective L_F and how to penalise it."""
        self.loss = loss
        self.settings = settings

    def measure(self, model: nn.Module, batch: Sequence[Any]) -> SquaredNorm:
        """The trace, or the squared norm of the mean gradient, of a batch and its gradient, over all ranks.

        The training takes no notice of it: not its random numbers, the statistics of its norms, or the ranges
        of its activations. Runs in full precision inside autocast too.

        Args:
            model: quantized, not wrapped.
            batch: one sample for each image.

        Returns:
            The value without lambda, and gradients for `trained(model)`.

        Raises:
            ValueError: no trained quantized layer is at or below the paths; the loss is not a finite scalar
                or has no second derivative.
        """
        layers, parameters = self.layers(model), trained(model)
        per_image = self.settings.estimate == TraceEstimate.PER_IMAGE
        batches = [[sample] for sample in batch] if per_image else [batch]
        with _undisturbed(model), held_weights(layers) as held:
            leaves = list(held.leaves.values())
            of_parts = (self._of(model, part, leaves, parameters) for part in batches)
            found = _mean(of_parts, len(batches))
            of_leaves = zip(held.leaves, found.gradients[: len(leaves)], strict=True)
            through = held.pull_back({name: g for name, g in of_leaves if g is not None}, parameters)
        both = map(_sum, found.gradients[len(leaves) :], through)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, both, strict=True)]
        value, *gradients = mean_over_ranks([found.value, *gradients])
        return SquaredNorm(value, tuple(gradients))

    def check(self, model: nn.Module, batch: Sequence[Any]) -> None:
        """Measure once to see whether it can be done.

        Raises:
            ValueError: see `measure`; or, for the finite difference, the loss of the same model and batch is
                another one when it is evaluated again.
        """
        self.measure(model, batch)
        if self.settings.method == PenaltyMethod.EXACT:
            self._check_operators(model, batch)
        else:
            self._check_repetition(model, batch)

    def _check_operators(self, model: nn.Module, batch: Sequence[Any]) -> None:
        layers = self.layers(model)
        with _undisturbed(model), held_weights(layers) as held, twice_differentiable():
            require_twice_differentiable(self.loss(model, batch), list(held.leaves.values()))

    def _check_repetition(self, model: nn.Module, batch: Sequence[Any]) -> None:
        with _undisturbed(model), torch.no_grad(), RepeatableBatchLoss(self.loss, model, batch, True) as loss:
            first, second = loss().item(), loss.again().item()
        if not math.isclose(first, second, rel_tol=_SAME):
            raise ValueError(
                f"the loss of the Fisher-trace penalty is {first:g} and, evaluated again, {second:g}: a "
                "finite difference needs the same; keep moving averages out of it, or take the method exact"
            )

    def layers(self, model: nn.Module) -> dict[str, QuantizedLayer]:
        """The layers whose weights count: of those that are trained, since frozen weights never move."""
        paths = self.settings.layers
        layers = {name: x for name, x in quantized_layers(model).items() if x.weight.requires_grad}
        chosen = {
            name: layer
            for name, layer in layers.items()
            if not paths or any(is_at_or_below(name, path) for path in paths)
        }
        if not chosen:
            raise ValueError(
                "Fisher-trace penalty: no trained quantized layer of the model"
                f"{' is at or below ' if paths else ''}{' or '.join(paths)}; "
                f"there are {', '.join(sorted({name.partition('.')[0] for name in layers})) or 'none'}"
            )
        return chosen

    def _of(
        self, model: nn.Module, batch: Sequence[Any], weights: list[Tensor], parameters: list[nn.Parameter]
    ) -> SquaredNorm:
        settings = self.settings
        exact = settings.method == PenaltyMethod.EXACT
        mean = mean_over_ranks if settings.estimate == TraceEstimate.MINIBATCH else None
        second = twice_differentiable() if exact else contextlib.nullcontext()
        with second, RepeatableBatchLoss(self.loss, model, batch, repeats=not exact) as loss:
            return squared_norm(loss, weights, parameters, settings.method, settings.radius, mean)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained, each once, in the order of the model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _mean(found: Iterator[SquaredNorm], count: int) -> SquaredNorm:
    """Added up as they come: for all of them there may be no room."""
    first = next(found)
    value, gradients = first.value, list(first.gradients)
    for other in found:
        value = value + other.value
        gradients = list(map(_sum, gradients, other.gradients))
        del other  # before the next one is computed
    parts = [part for part in gradients if part is not None]
    if count > 1 and parts:
        torch._foreach_div_(parts, count)
    return SquaredNorm(value / count, tuple(gradients))


def _sum(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """In place; None is zero."""
    if total is None or part is None:
        return part if total is None else total
    return total.add_(part)


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Full precision, and nothing that the training would notice afterwards."""
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    statistics = [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
    ]
    try:
        with (
            torch.random.fork_rng(devices),
            torch.autocast(device.type, enabled=False, cache_enabled=False),  # of casts of moved weights
            without_tf32(),  # which would swallow the step of the finite difference
            torch.enable_grad(),
            unobserved(model),
        ):
            yield
    finally:
        for buffer, before in statistics:
            buffer.copy_(before)
