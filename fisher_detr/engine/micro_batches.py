"""The training step: micro-batches in full or mixed precision, one step of the optimizer."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class MicroBatchTrainer(SimpleTrainer):
    """Detectron2's trainer, whose iteration may come in several passes and in mixed precision.

    The images of an iteration are split evenly; losses and gradients are means over the micro-batches, and
    ranks exchange gradients once. This is one large batch where the loss is a mean over images. A DETR's is
    divided by the objects of the micro-batch, and a batch norm sees the micro-batch alone.

    Attributes:
        num_micro_batches: that an iteration is split into.
        grad_scaler: scales the loss in mixed precision; not enabled in full precision.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        num_micro_batches: int = 1,
        grad_scaler: torch.amp.GradScaler | None = None,
    ):
        """Build.

        Args:
            model: gives a dict of losses; wrapped where there are several ranks.
            data_loader: batches as lists.
            optimizer: of the model's parameters.
            num_micro_batches: passes for each step of the optimizer.
            grad_scaler: of the model's device; None, or one that is not enabled: full precision.
        """
        super().__init__(model, data_loader, optimizer)
        self.num_micro_batches = num_micro_batches
        self.grad_scaler = grad_scaler or torch.amp.GradScaler(enabled=False)
        self._device = next(model.parameters()).device.type

    def run_step(self) -> None:
        """Train on the images of one iteration."""
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        batches = split_evenly(next(self._data_loader_iter), self.num_micro_batches)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        means: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with self._ranks_exchange(number == len(batches)):
                losses = {name: loss / len(batches) for name, loss in self._losses(batch).items()}
                self.grad_scaler.scale(sum(losses.values())).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach()
        self._write_metrics(means, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, and the scale of mixed precision."""
        scaler = {"grad_scaler": self.grad_scaler.state_dict()} if self.grad_scaler.is_enabled() else {}
        return super().state_dict() | scaler

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, in full or mixed precision."""
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def _losses(self, batch: Sequence[Any]) -> dict[str, Tensor]:
        with torch.autocast(self._device, enabled=self.grad_scaler.is_enabled()):
            losses = self.model(batch)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _ranks_exchange(self, exchange: bool) -> contextlib.AbstractContextManager:
        """Whether the backward pass inside the block ends with the exchange of what all have brought."""
        if exchange or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()


def split_evenly(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Split the images of one rank into micro-batches of one size.

    Raises:
        ValueError: their number is no multiple of `parts`.
    """
    if not batch or len(batch) % parts:
        raise ValueError(
            f"{len(batch)} images of a process cannot be split into {parts} micro-batches of one size: make "
            "SOLVER.IMS_PER_BATCH a multiple of SOLVER.ACCUMULATION_STEPS times the processes"
        )
    size = len(batch) // parts
    return [batch[start : start + size] for start in range(0, len(batch), size)]
