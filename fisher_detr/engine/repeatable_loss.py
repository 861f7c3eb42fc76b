"""A user's loss of a model on a batch, evaluated twice with the same discrete decisions."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.layers import frozen_parts, random_states, repeating_choices, set_random_states
from fisher_detr.quantization import frozen_rounding

# A loss of a model on a batch: a scalar. It may have a method `repeating(model)`, a context manager within
# which the first evaluation decides (such as a matching) and later ones repeat it; it yields a function that
# is called before each repetition.
BatchLoss = Callable[[nn.Module, Any], Tensor]


class NotFiniteError(ValueError):
    """The loss of the penalty, or its gradient, is NaN or infinite."""


class RepeatableBatchLoss(contextlib.ExitStack):
    """`fisher.RepeatableLoss` of a model and a batch, within the context."""

    def __init__(self, loss: BatchLoss, model: nn.Module, batch: Sequence[Any], repeats: bool):
        """Watch a model; args as in `FisherTracePenalty`, and whether the loss is evaluated twice at all."""
        super().__init__()
        self._loss, self._model, self._batch = loss, model, batch
        self._rewind: list[Callable[[], None]] = []
        if repeats:
            self._rewind.append(self.enter_context(frozen_rounding(model)))
            frozen = frozen_parts(model) if torch.is_grad_enabled() else ()  # a check looks at all
            self._rewind.append(self.enter_context(repeating_choices(frozen)))
            if hasattr(loss, "repeating"):
                self._rewind.append(self.enter_context(loss.repeating(model)))

    def __call__(self) -> Tensor:
        """Evaluate, deciding anew.

        Raises:
            ValueError: the loss is no finite scalar.
        """
        self._random = random_states()
        return self._evaluate()

    def again(self) -> Tensor:
        """Evaluate with the decisions of before."""
        for rewind in self._rewind:
            rewind()
        set_random_states(self._random)
        return self._evaluate()

    def _evaluate(self) -> Tensor:
        value = self._loss(self._model, self._batch)
        if value.dim() or not torch.isfinite(value):
            kind = ValueError if value.dim() else NotFiniteError
            raise kind(f"the loss of the Fisher-trace penalty is {value.detach()}: expected a finite scalar")
        return value
