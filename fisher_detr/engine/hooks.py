"""Quantization-aware training as one hook for any Detectron2 trainer."""

import contextlib
import statistics
from typing import Any

import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils import comm
from torch import nn

from fisher_detr.engine.optimizer import GradientClip
from fisher_detr.engine.penalty_term import Contribution, PenaltyTerm, Reference
from fisher_detr.engine.scale_phases import Phase, QATSchedule, ScalePhases
from fisher_detr.engine.seeding import seed_iteration
from fisher_detr.engine.trace_penalty import FisherTracePenalty
from fisher_detr.quantization import activation_quantizers, learned_scales, quantized_layers

_LOG_PERIOD = 100  # iterations between two looks at the ranges, each of which makes a GPU wait


class QATHook(HookBase):
    """Goes through the phases of quantization-aware training and adds the Fisher-trace penalty.

    The model is quantized before the optimizer is built and the model wrapped: by `Trainer` from a config, or
    by `prepare(model)`. Register the hook before those that save and evaluate.

    The penalty enters the loss dict as `loss_fisher_trace` once in `interval` iterations: its value is
    `lambda tr`, its gradient `interval` times that of `lambda tr`.

    With a seed every iteration has random numbers of its own: a run that is resumed draws what an
    uninterrupted one would have drawn. This project's trainer sees to that itself.
    """

    def __init__(
        self, schedule: QATSchedule, penalty: FisherTracePenalty | None = None, seed: int | None = None
    ):
        """Build.

        Args:
            schedule: phases.
            penalty: the Fisher-trace penalty; None: none.
            seed: of each iteration's random numbers, with its number and the rank; None: they are left alone.
        """
        self.schedule = schedule
        self._term = PenaltyTerm(penalty, self._tell_clip) if penalty else None
        self._seed = seed
        self._restored: dict[str, Any] = {}
        self._scales: ScalePhases | None = None
        self._attached: contextlib.ExitStack | None = None

    def before_train(self) -> None:
        """Check that the model was prepared, and start.

        Raises:
            RuntimeError: the model is not quantized, or its learned scales are not optimized.
            ValueError: the penalty counts layers that the model does not have.
        """
        model = unwrapped(self.trainer.model)
        _require_prepared(model, getattr(self._stepper, "optimizer", None))
        self._scales = ScalePhases(model, self.schedule, self._restored.get("scales"))
        if self._term:
            self._term.penalty.layers(model)
            self._term.reference = Reference(**self._restored.get("reference", {}))
            self._attached = self._term.attach(model)

    def before_step(self) -> None:
        """Enter the phase of this iteration."""
        iteration = self.trainer.iter
        if self._seed is not None:
            seed_iteration(self._seed, iteration)
        self._scales.enter(iteration)
        if self._term:
            since = iteration - self.schedule.observe_iters
            settings = self._term.penalty.settings
            observes = self.schedule.phase(iteration) is Phase.OBSERVE
            self._term.due = not observes and since % settings.interval == 0
            self._term.warmup = min(1.0, (since + 1) / max(1, settings.warmup_iters))
            self._term.measured.clear()
            if self._clip:
                self._clip.forget()

    def after_step(self) -> None:
        """Leave the phase of this iteration."""
        self._scales.leave(self.trainer.iter)
        if comm.is_main_process():
            self._log()

    def after_train(self) -> None:
        """Let go of the model."""
        if self._scales:
            self._scales.close()
        if self._attached:
            self._attached.close()

    def state_dict(self) -> dict[str, Any]:
        """Reference trace, and the state of the scales' phases."""
        if not self._scales:
            return self._restored
        reference = vars(self._term.reference) if self._term else {}
        return {"reference": dict(reference), "scales": self._scales.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._restored = state_dict

    @property
    def _stepper(self) -> TrainerBase:
        """The trainer that has the optimizer: a `DefaultTrainer` holds one."""
        return getattr(self.trainer, "_trainer", self.trainer)

    @property
    def _clip(self) -> GradientClip | None:
        """That of this project's optimizer, which leaves out what has a clipping of its own."""
        return getattr(getattr(self._stepper, "optimizer", None), "gradient_clip", None)

    def _tell_clip(self, gradients: list[Contribution]) -> None:
        if self._clip is None:
            return
        scaler = getattr(self._stepper, "grad_scaler", None)
        scale = scaler.get_scale() if scaler else 1.0  # out of the gradients when they are clipped
        self._clip.keep_apart([(parameter, part / scale) for parameter, part in gradients])

    def _log(self) -> None:
        storage = self.trainer.storage
        for name, values in (self._term.measured if self._term else {}).items():
            storage.put_scalar(name, statistics.mean(values), smoothing_hint=False)
        iteration, model = self.trainer.iter, self._scales.model
        if iteration % _LOG_PERIOD or self.schedule.phase(iteration) is Phase.OBSERVE:
            return
        for name, quantizer in activation_quantizers(model).items():
            if quantizer.is_calibrated:  # reached by a pass
                low, high = quantizer.value_range()
                storage.put_scalars(**{f"ranges/{name}/low": low, f"ranges/{name}/high": high})
        for name, layer in quantized_layers(model).items():
            storage.put_scalar(f"bits/{name}", layer.weight_quantizer.spec.bits)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DistributedDataParallel`, if it is."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _require_prepared(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    if not quantized_layers(model):
        raise RuntimeError(
            "QATHook: the model has no quantized layer: call fisher_detr.engine.prepare(model, ...) where it "
            "is built, before its optimizer, its checkpointer and DistributedDataParallel"
        )
    if optimizer is None:
        return
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not all(id(scale) in optimized for scale in learned_scales(model)):
        raise RuntimeError(
            "QATHook: the optimizer does not know the learned scales of the quantizers: call prepare(model) "
            "before the optimizer is built"
        )
