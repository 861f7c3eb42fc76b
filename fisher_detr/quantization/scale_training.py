"""Scales that change while a quantized model is trained.

A scale is a learned parameter (LSQ, PACT), follows the values (min-max), or stays as it was calibrated.
"""

import enum
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fisher_detr.quantization.fake_quantizer import (
    ActivationQuantizer,
    FakeQuantizer,
    activation_quantizers,
    is_training_pass,
)
from fisher_detr.quantization.layers import QuantizedLayer
from fisher_detr.quantization.primitives import StepGradient
from fisher_detr.quantization.selection import quantized_layers
from fisher_detr.structures import ScaleMethod

SMALLEST_SCALE = 1e-8  # of learned scales


class ScaleTraining(enum.StrEnum):
    """What becomes of a scale in training."""

    FIXED = "fixed"  # as it was calibrated
    MINMAX = "minmax"  # the largest weight; a moving average of the extreme activations
    LSQ = "lsq"  # learned step (arXiv 1902.08153)
    PACT = "pact"  # learned clipping bound (arXiv 1805.06085); activations only


def learn_scales(model: nn.Module, weights: ScaleTraining, activations: ScaleTraining) -> None:
    """Turn scales into parameters where they are learned; before the optimizer is built.

    Not those of a layer whose weight is frozen: nothing has to be propagated back into it.

    Args:
        model: a quantized model, whose scales need not be set yet.
        weights: what becomes of the weights' scales.
        activations: what becomes of the activations' scales.

    Raises:
        ValueError: PACT for weights.
    """
    weights, activations = ScaleTraining(weights), ScaleTraining(activations)
    if weights is ScaleTraining.PACT:
        raise ValueError("PACT learns where activations are clipped: train the weights' scales by lsq")
    frozen = frozen_quantizers(model)
    if weights is ScaleTraining.LSQ:
        for layer in quantized_layers(model).values():
            if layer.weight_quantizer not in frozen:
                values = layer.weight.numel() // layer.weight_quantizer.scale.numel()
                layer.weight_quantizer.learn_scale(StepGradient.LSQ, values)
    if activations in (ScaleTraining.LSQ, ScaleTraining.PACT):
        for quantizer in activation_quantizers(model).values():
            if quantizer not in frozen:
                quantizer.learn_scale(StepGradient(str(activations)))


def frozen_quantizers(model: nn.Module) -> set[FakeQuantizer]:
    """Of weights and inputs of the layers whose weight is frozen; attention's products have no weight."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    frozen = [layer for layer in layers if not layer.weight.requires_grad]
    return {layer.weight_quantizer for layer in frozen} | {layer.input_quantizer for layer in frozen}


@torch.no_grad()
def start_steps(model: nn.Module) -> None:
    """Set the scales of weights as LSQ starts: `2 mean|w| / sqrt(qmax)` (arXiv 1902.08153, section 2.1).

    Not of frozen ones, which would never leave it. A channel of zeros gets scale 1.
    """
    for layer in quantized_layers(model).values():
        quantizer = layer.weight_quantizer
        if not layer.weight.requires_grad:
            continue
        rows = layer.weight.flatten(1) if quantizer.spec.per_channel else layer.weight.reshape(1, -1)
        scale = 2 * rows.abs().mean(1) / quantizer.spec.qmax**0.5
        quantizer.set_scale(torch.where(scale > 0, scale, 1.0))


def update_weight_scales(model: nn.Module) -> None:
    """Set the scales of all weights from their largest values, as min-max training does after each step."""
    for layer in quantized_layers(model).values():
        layer.weight_quantizer.calibrate(layer.weight, ScaleMethod.MAX)


def fix_scales(model: nn.Module) -> None:
    """Turn every learned scale into a buffer: a model to deploy, of the same outputs."""
    for module in model.modules():
        if isinstance(module, FakeQuantizer):
            module.fix_scale()


def learned_scales(model: nn.Module) -> Iterator[nn.Parameter]:
    """The scales that are parameters, each once."""
    for module in model.modules():
        if isinstance(module, FakeQuantizer) and module.is_learned:
            yield module.scale


@torch.no_grad()
def keep_scales_positive(model: nn.Module) -> None:
    """Lift learned scales that an optimizer step has made 0 or negative; those that are not set stay so."""
    quantizers = [m for m in model.modules() if isinstance(m, FakeQuantizer) and m.is_learned]
    scales = [quantizer.scale for quantizer in quantizers if quantizer.is_calibrated]
    if scales:
        torch._foreach_clamp_min_(scales, SMALLEST_SCALE)


class RangeFollower:
    """Lets the ranges of activations follow a moving average of each batch's extreme values."""

    def __init__(self, model: nn.Module, momentum: float = 0.01):
        """Watch the training passes of a quantized model.

        Args:
            model: whose activation quantizers are calibrated.
            momentum: part of the newest batch in the average.
        """
        self.momentum = momentum
        self._quantizers = activation_quantizers(model)
        # Not read back from the quantizers: these round a range to whole levels around zero.
        self._ranges = {name: quantizer.value_range() for name, quantizer in self._quantizers.items()}
        self._seen: dict[str, Tensor] = {}
        self._handles = [
            quantizer.register_forward_pre_hook(self._recorder(name))
            for name, quantizer in self._quantizers.items()
        ]

    def close(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()

    def update(self) -> None:
        """Move the ranges by what was seen since the last update, on all ranks alike."""
        seen = [
            self._seen.get(name, quantizer.scale.new_tensor([torch.inf, -torch.inf]))
            for name, quantizer in self._quantizers.items()
        ]
        self._seen.clear()
        for name, (low, high) in zip(self._quantizers, _over_ranks(torch.stack(seen)).tolist(), strict=True):
            if low <= high:  # reached by a pass
                old_low, old_high = self._ranges[name]
                self._ranges[name] = (
                    old_low + self.momentum * (low - old_low),
                    old_high + self.momentum * (high - old_high),
                )
                self._quantizers[name].set_range(*self._ranges[name])

    def state_dict(self) -> dict[str, tuple[float, float]]:
        """The averages by quantizer."""
        return dict(self._ranges)

    def load_state_dict(self, state: dict[str, tuple[float, float]]) -> None:
        """Go on from averages that `state_dict` gave."""
        self._ranges |= state

    def _recorder(self, name: str):
        def record(module: ActivationQuantizer, inputs: tuple[Tensor]) -> None:
            if not is_training_pass(module) or not inputs[0].numel():
                return
            seen = torch.stack(torch.aminmax(inputs[0].detach().float()))  # [2]
            before = self._seen.get(name)
            if before is not None:
                seen = torch.stack([torch.minimum(before[0], seen[0]), torch.maximum(before[1], seen[1])])
            self._seen[name] = seen

        return record


def _over_ranks(extremes: Tensor) -> Tensor:
    """Smallest and largest values, `[N, 2]`, of all ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        signs = extremes.new_tensor([-1.0, 1.0])  # the smallest is the largest negative
        extremes = extremes * signs
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
        extremes = extremes * signs
    return extremes
