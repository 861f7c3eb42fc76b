"""The phases of the scales and norms of a model that is trained while it is quantized."""

import contextlib
import dataclasses
import enum
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.engine.calibration import add_of_ranks
from fisher_detr.quantization import (
    ActivationQuantizer,
    Histogram,
    RangeFollower,
    RangeMethod,
    ScaleTraining,
    activation_quantizers,
    bypassed,
    calibrate_weights,
    frozen_quantizers,
    keep_scales_positive,
    learned_scales,
    observing,
    quantized_layers,
    set_activation_ranges,
    start_steps,
    update_weight_scales,
)


class Phase(enum.StrEnum):
    """Where a quantization-aware training stands."""

    OBSERVE = "observe"  # activations pass unquantized and are recorded
    QUANTIZE = "quantize"  # scales are trained
    FROZEN = "frozen"  # scales stay


@dataclasses.dataclass(frozen=True)
class QATSchedule:
    """What happens to scales and norms, and when; see the keys QUANT.QAT in config.py.

    Attributes:
        weights, activations: what becomes of the scales in training.
        observe_iters: iterations in which activations are only recorded; needed where ranges are not set.
        freeze_ranges_iter: iteration from which scales stay as they are; 0: never.
        freeze_norms_iter: iteration from which batch norms keep their statistics; 0: never. Those of this
            package's detectors are frozen where these are quantized.
        range_method, percentile: how ranges come from what was recorded.
        momentum: part of the newest batch in min-max ranges.
        start_steps: let LSQ's weight scales start as its paper says, not as they were calibrated.
    """

    weights: ScaleTraining = ScaleTraining.LSQ
    activations: ScaleTraining = ScaleTraining.LSQ
    observe_iters: int = 0
    freeze_ranges_iter: int = 0
    freeze_norms_iter: int = 0
    range_method: RangeMethod = RangeMethod.MSE
    percentile: float = 99.99
    momentum: float = 0.01
    start_steps: bool = False

    def __post_init__(self):
        for name in ("weights", "activations"):
            object.__setattr__(self, name, ScaleTraining(getattr(self, name)))
        for name in ("observe_iters", "freeze_ranges_iter", "freeze_norms_iter"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more iterations")
        if self.freeze_ranges_iter and self.freeze_ranges_iter < self.observe_iters:
            raise ValueError(
                f"freeze_ranges_iter is {self.freeze_ranges_iter}, before the last of {self.observe_iters} "
                "observe_iters: scales freeze after they were set"
            )

    def phase(self, iteration: int) -> Phase:
        """The phase of an iteration."""
        if iteration < self.observe_iters:
            return Phase.OBSERVE
        frozen = self.freeze_ranges_iter and iteration >= self.freeze_ranges_iter
        return Phase.FROZEN if frozen else Phase.QUANTIZE


class ScalePhases:
    """Sets, moves and holds the scales of one model as its schedule says."""

    def __init__(self, model: nn.Module, schedule: QATSchedule, state: dict[str, Any] | None = None):
        """Start, or go on from what `state_dict` gave.

        Args:
            model: quantized.
            schedule: what happens when.
            state: None or empty: start.

        Raises:
            RuntimeError: activations have no ranges, and none are going to be observed; or the model was
                prepared for another schedule.
        """
        self.model = model
        self.schedule = schedule
        # Histograms of all ranks until the iteration before, and of this rank in this iteration.
        self._recorded: dict[str, Histogram] = {}
        self._seen: dict[str, Histogram] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._observing: contextlib.ExitStack | None = None
        self._follower: RangeFollower | None = None
        self._held: list[Tensor] | None = None
        _require_learned(model, schedule)
        if state:
            self._recorded = {name: Histogram.from_state(found) for name, found in state["recorded"].items()}
            self._ranges = state["ranges"]
        else:
            self._start_weight_scales()
            self._require_ranges()

    def enter(self, iteration: int) -> None:
        """Before an iteration: begin its phase."""
        phase = self.schedule.phase(iteration)
        if phase is Phase.OBSERVE:
            self._observe()
        else:
            self._set_ranges()
            self._follow(phase)
        if phase is Phase.FROZEN and self._held is None:
            self._held = [scale.detach().clone() for scale in learned_scales(self.model)]
        if self.schedule.freeze_norms_iter and iteration >= self.schedule.freeze_norms_iter:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def leave(self, iteration: int) -> None:
        """After an iteration: move the scales that follow their values, hold those that are frozen."""
        phase = self.schedule.phase(iteration)
        if phase is Phase.FROZEN:
            self._hold()
            return
        if phase is Phase.OBSERVE:
            add_of_ranks(self._recorded, self._seen)
            self._seen.clear()
        keep_scales_positive(self.model)
        if self.schedule.weights is ScaleTraining.MINMAX:
            update_weight_scales(self.model)
        if self._follower:
            self._follower.update()

    def close(self) -> None:
        """Leave the model as it is, unwatched."""
        if self._observing:
            self._observing.close()
        if self._follower:
            self._follower.close()

    def state_dict(self) -> dict[str, Any]:
        """What is recorded or averaged; the scales are in the model's state."""
        return {
            "recorded": {name: histogram.state_dict() for name, histogram in self._recorded.items()},
            "ranges": self._follower.state_dict() if self._follower else self._ranges,
        }

    def _start_weight_scales(self) -> None:
        layers = quantized_layers(self.model).values()
        if self.schedule.weights is ScaleTraining.MINMAX:
            update_weight_scales(self.model)
        elif not all(layer.weight_quantizer.is_calibrated for layer in layers):
            calibrate_weights(self.model)
        if self.schedule.weights is ScaleTraining.LSQ and self.schedule.start_steps:
            start_steps(self.model)

    def _observe(self) -> None:
        if self._observing:
            return
        self._observing = contextlib.ExitStack()
        self._observing.enter_context(bypassed(self.model, ActivationQuantizer))
        self._observing.enter_context(observing(self.model, self._seen, training=True))

    def _set_ranges(self) -> None:
        """From what was observed, once."""
        if self._observing:
            self._observing.close()
            self._observing = None
        if self._recorded:
            schedule, recorded = self.schedule, self._recorded
            set_activation_ranges(self.model, recorded, schedule.range_method, percentile=schedule.percentile)
            self._recorded = {}

    def _require_ranges(self) -> None:
        quantizers = activation_quantizers(self.model).items()
        missing = [name for name, quantizer in quantizers if not quantizer.is_calibrated]
        if missing and not self.schedule.observe_iters:
            raise RuntimeError(
                f"{len(missing)} activation quantizers have no range ({', '.join(missing[:3])}): observe for "
                "some iterations first (QUANT.QAT.OBSERVE_ITERS), or start from a calibrated checkpoint"
            )

    def _follow(self, phase: Phase) -> None:
        if self._follower or phase is Phase.FROZEN or self.schedule.activations is not ScaleTraining.MINMAX:
            return
        self._follower = RangeFollower(self.model, self.schedule.momentum)
        self._follower.load_state_dict(self._ranges)

    @torch.no_grad()
    def _hold(self) -> None:
        """An optimizer moves a parameter on by its momentum: put the scales back."""
        if self._held:
            torch._foreach_copy_(list(learned_scales(self.model)), self._held)


def _require_learned(model: nn.Module, schedule: QATSchedule) -> None:
    """A scale that is to be learned is a parameter, and no other is: not that of a frozen layer."""
    quantizers = {
        "weights": [layer.weight_quantizer for layer in quantized_layers(model).values()],
        "activations": activation_quantizers(model).values(),
    }
    frozen = frozen_quantizers(model)
    for name, of_kind in quantizers.items():
        training = getattr(schedule, name)
        expected = training in (ScaleTraining.LSQ, ScaleTraining.PACT)
        if any(quantizer.is_learned != (expected and quantizer not in frozen) for quantizer in of_kind):
            raise RuntimeError(
                f"QATSchedule({name}={str(training)!r}), and the scales of the model's {name} are "
                f"{'no ' if expected else ''}parameters: give the same {name} to prepare(), and freeze "
                "layers before it"
            )
