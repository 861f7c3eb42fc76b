"""A user's loss of a model on a batch, evaluated twice with the same discrete decisions."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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
        """Nothing is watched before the context is entered.

        Args:
            loss: of a model on a batch.
            model: quantized.
            batch: samples.
            repeats: whether the loss is evaluated twice at all.
        """
        super().__init__()
        self._loss, self._model, self._batch, self._repeats = loss, model, batch, repeats
        self._rewind: list[Callable[[], None]] = []

    def __enter__(self) -> "RepeatableBatchLoss":
        """Begin to watch; nothing is left of it where that fails."""
        try:
            self._rewind = [self.enter_context(context) for context in self._contexts()]
        except BaseException:
            self.close()
            raise
        return self

    def _contexts(self) -> Iterator[contextlib.AbstractContextManager[Callable[[], None]]]:
        if self._repeats:
            yield frozen_rounding(self._model)
            # A check looks at all.
            yield repeating_choices(frozen_parts(self._model) if torch.is_grad_enabled() else ())
            if hasattr(self._loss, "repeating"):
                yield self._loss.repeating(self._model)

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
