"""Objectives of this project's detectors as the losses that hooks and penalties take."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fisher_detr.layers import in_eval_mode
from fisher_detr.modeling import DetrBase, Predictions, Targets
from fisher_detr.modeling.meta_arch.detr_base import Batch
from fisher_detr.structures import CategorySet


class DetrObjective:
    """L_A or L_F of a detector on a batch, in eval mode: a `BatchLoss` for `FisherTracePenalty`."""

    def __init__(self, category_set: CategorySet | None, across_ranks: bool = False):
        """Args are the critical set (None: L_A) and whether a batch is one of all ranks' together."""
        self.category_set = category_set
        self.across_ranks = across_ranks

    def __call__(self, model: DetrBase, batch: Batch) -> Tensor:
        """The sum of the weighted losses."""
        with in_eval_mode(model):
            return total(model.objectives(batch, [self.category_set], self.across_ranks)[0])

    @contextlib.contextmanager
    def repeating(self, model: DetrBase) -> Iterator[Callable[[], None]]:
        """Repeat the matching of the first evaluation within."""
        with model.criterion.matcher.repeating() as rewind:
            yield rewind


class CriticalTerm:
    """Re-weighting: the critical objective as one more training loss, from the same predictions."""

    def __init__(self, model: DetrBase, category_set: CategorySet, weight: float):
        """Args are the trained model, the critical set, and the factor of L_F."""
        self._compare = model.compare
        self.category_set = category_set
        self.weight = weight

    def __call__(self, predictions: Predictions, targets: list[Targets], _batch: Batch) -> dict[str, Tensor]:
        """The weighted sum of the losses of L_F."""
        return {"loss_critical": self.weight * total(self._compare(predictions, targets, self.category_set))}


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of weighted losses."""
    return torch.stack([*losses.values()]).sum()
