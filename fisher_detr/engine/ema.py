"""Moving average of a model's weights: kept, evaluated beside them, and saved."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fisher_detr.checkpoint import SafeCheckpointer
from fisher_detr.engine.hooks import unwrapped
from fisher_detr.quantization import learned_scales

FILE_NAME = "model_final_ema"


class ModelEMA(HookBase):
    """Averages the weights of a model exponentially, `a <- decay a + (1 - decay) w` after each step.

    Averaged are the trained parameters, and the statistics of batch norms, which belong to them. All else is
    as the model has it at the moment: counters, what is frozen, and the quantizers, in which scale and zero
    point belong together.

    Register it behind the hooks that change weights and before those that save. At the end of a training the
    averaged model is written to `model_final_ema.pth`.
    """

    def __init__(self, decay: float, output_dir: str = ""):
        """Build.

        Args:
            decay: part of the average that a step keeps, above 0 and below 1.
            output_dir: where the averaged model is written; empty: nowhere.

        Raises:
            ValueError: the decay is out of its range.
        """
        if not 0 < decay < 1:
            raise ValueError(f"decay of the averaged weights is {decay:g}, expected above 0 and below 1")
        self._update = get_ema_multi_avg_fn(decay)
        self._output_dir = output_dir
        self._restored: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._averages: dict[str, Tensor] = {}

    def before_train(self) -> None:
        """Start from the weights as they are, or go on from the averages of the checkpoint.

        Raises:
            ValueError: the checkpoint's averages are those of another model.
        """
        self._weights = averaged_tensors(unwrapped(self.trainer.model))
        if self._restored:
            self._check_restored()
        self._averages = {
            name: self._restored.get(name, weight).to(weight.device, copy=True)
            for name, weight in self._weights.items()
        }
        self._restored = {}

    def after_step(self) -> None:
        """Take the new weights into the average."""
        self._update([*self._averages.values()], [*self._weights.values()], None)

    def after_train(self) -> None:
        """Write the averaged model, where the training has come to its end."""
        finished = self.trainer.iter >= self.trainer.max_iter
        if not (finished and self._averages and self._output_dir and comm.is_main_process()):
            return
        checkpointer = SafeCheckpointer(unwrapped(self.trainer.model), self._output_dir)
        with self.applied():
            checkpointer.save(FILE_NAME, tag=False, iteration=self.trainer.max_iter - 1)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        weights = [*self._weights.values()]
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, [*self._averages.values()])
        try:
            yield
        finally:
            torch._foreach_copy_(weights, kept)

    def state_dict(self) -> dict[str, Any]:
        """The averages by name."""
        return {"averages": self._averages or self._restored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._restored = state_dict["averages"]

    def _check_restored(self) -> None:
        found, expected = ({n: tuple(t.shape) for n, t in x.items()} for x in (self._restored, self._weights))
        if found != expected:
            name = sorted(name for name, _ in found.items() ^ expected.items())[0]
            raise ValueError(
                f"the averaged weights of the checkpoint in {self._output_dir or 'use'} are of another model "
                f"({name}): resume with the config it was made with"
            )


def averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that are averaged, without gradient, by their names in the state dict."""
    scales = {id(scale) for scale in learned_scales(model)}
    found = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in scales
    }
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            found |= {f"{path}.{name}": getattr(module, name) for name in ("running_mean", "running_var")}
    return found
