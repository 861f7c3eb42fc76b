"""Biases that bring the mean output of quantized layers back to what it is in full precision.

Errors of quantized weights do not average out over the inputs of a layer: its output is shifted by
`E[(Q(w) - w) x]`, over images and positions, and the bias can take that back (Data-Free Quantization, arXiv
1906.04721, section 4.2; here from calibration images).
"""

import dataclasses
import enum
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisher_detr.layers import in_eval_mode
from fisher_detr.quantization.layers import QuantConv2d, QuantizedLayer

logger = logging.getLogger(__name__)

# Runs a model on a batch.
Forward = Callable[[nn.Module, Any], Any]


class BiasMode(enum.StrEnum):
    """What a layer's mean output is compared with."""

    # What the float layer makes of the same inputs, those of the float model. All layers at once: the inputs
    # do not depend on any correction. What the errors of earlier layers do to the inputs stays.
    OWN = "own"
    # What the layer gives in the float model, layer after layer in order of execution, so that each takes
    # back what the earlier, already corrected ones have left. All at once, every layer would take it back.
    SEQUENTIAL = "sequential"


@dataclasses.dataclass(frozen=True)
class BiasCorrection:
    """What became of the biases.

    Attributes:
        shifts: what was added to the bias of each layer, `[C]`, in order of execution. Layers that share a
            bias are one entry, under the first name.
        left_out: why the other quantized layers are as they were, by name.
    """

    shifts: Mapping[str, Tensor]
    left_out: Mapping[str, str]


@torch.no_grad()
def correct_biases(
    quantized: nn.Module,
    reference: nn.Module,
    batches: Iterable[Any],
    mode: BiasMode = BiasMode.SEQUENTIAL,
    *,
    forward: Forward | None = None,
) -> BiasCorrection:
    """Change the biases of quantized layers, in place.

    Where activations are not calibrated yet, let them pass (`bypassed`): their ranges are then set behind the
    corrected biases. A layer without a bias gets none, because its state dict would not load any more; fold
    batch norm before. The models run in eval mode, which is restored.

    With N batches and L layers `own` takes N passes of the float model; `sequential` N more for each layer,
    of the quantized one.

    Args:
        quantized: the quantized model.
        reference: the float model it was made from, with the same norms folded.
        batches: what a model takes, one after the other: single images, because padding would count as
            positions.
        mode: own or sequential. The mean is over all positions of all images and all calls of the layer.
        forward: runs a model on a batch; default: calls it.

    Raises:
        ValueError: there are no batches, the models do not have the same layers, or an output is not finite.
    """
    mode, batches = BiasMode(mode), list(batches)
    if not batches:
        raise ValueError("bias correction got no batches: pass at least one batch of images")
    layers, left_out = _layers(quantized, reference)
    run = _Runner(batches, forward or (lambda model, batch: model(batch)))
    with in_eval_mode(quantized), in_eval_mode(reference):
        correct = _correct_own if mode is BiasMode.OWN else _correct_in_order
        shifts = correct(quantized, reference, layers, run)
    left_out |= dict.fromkeys(layers.keys() - shifts.keys(), "no calibration batch has reached it")
    logger.info("Corrected the biases of %d layers, left out %d", len(shifts), len(left_out))
    return BiasCorrection(shifts, left_out)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A quantized layer beside the one it was."""

    quantized: QuantizedLayer
    original: nn.Module

    def quantized_output(self, x: Tensor) -> Tensor:
        """With the bias, before any norm: `[..., C]`."""
        return self._product(*self.quantized.quantized_operands(x), self.quantized.bias)

    def float_output(self, x: Tensor) -> Tensor:
        """The same in full precision."""
        return self._product(x, self.original.weight, self.original.bias)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if isinstance(self.quantized, QuantConv2d):
            return self.quantized._conv_forward(x, weight, bias).movedim(-3, -1)
        return F.linear(x, weight, bias)


# By the name of the first layer that has the bias.
_Layers = dict[str, list[_Layer]]


@dataclasses.dataclass(frozen=True)
class _Runner:
    """Runs a model on all batches."""

    batches: Sequence[Any]
    forward: Forward

    def means(
        self, model: nn.Module, watched: Iterable[tuple[str, nn.Module, Callable]]
    ) -> dict[str, Tensor]:
        """Mean over all positions of a function `[..., C]` of the inputs of modules, `[C]` float64 by name.

        Args:
            model: what runs.
            watched: name, module of the model, and function.

        Returns:
            in the order in which the modules were first called.
        """
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def adder(name: str, function: Callable[[Tensor], Tensor]) -> Callable:
            def add(_module: nn.Module, inputs: tuple[Tensor]) -> None:
                rows = function(inputs[0]).double().flatten(0, -2)
                totals[name] = totals.get(name, 0) + rows.sum(dim=0)
                counts[name] = counts.get(name, 0) + len(rows)

            return add

        handles = [module.register_forward_pre_hook(adder(name, f)) for name, module, f in watched]
        try:
            for batch in self.batches:
                self.forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        return {name: total / counts[name] for name, total in totals.items()}


def _correct_own(
    quantized: nn.Module, reference: nn.Module, layers: _Layers, run: _Runner
) -> dict[str, Tensor]:
    def error(layer: _Layer) -> Callable[[Tensor], Tensor]:
        return lambda x: layer.float_output(x) - layer.quantized_output(x)

    watched = [(name, one.original, error(one)) for name, same in layers.items() for one in same]
    shifts = run.means(reference, watched)
    return {name: _shift(name, layers[name][0].quantized, shift) for name, shift in shifts.items()}


def _correct_in_order(
    quantized: nn.Module, reference: nn.Module, layers: _Layers, run: _Runner
) -> dict[str, Tensor]:
    watched = [(name, one.original, one.float_output) for name, same in layers.items() for one in same]
    shifts = {}
    for name, expected in run.means(reference, watched).items():
        same = layers[name]
        found = run.means(quantized, [(name, one.quantized, one.quantized_output) for one in same])
        shifts[name] = _shift(name, same[0].quantized, expected - found[name])
    return shifts


def _shift(name: str, layer: QuantizedLayer, shift: Tensor) -> Tensor:
    if not torch.isfinite(shift).all():
        raise ValueError(f"{name}: the mean output is not finite: check the weights and the images")
    layer.bias.add_(shift.to(layer.bias.dtype))
    return shift


def _layers(quantized: nn.Module, reference: nn.Module) -> tuple[_Layers, dict[str, str]]:
    """Layers that have a bias, those of one bias together; and why others are left out."""
    by_bias: dict[int, tuple[str, list[_Layer]]] = {}
    left_out = {}
    for name, module in quantized.named_modules():
        if isinstance(module, QuantizedLayer) and module.bias is None:
            left_out[name] = "it has no bias; batch norm that is folded before gives it one"
        elif isinstance(module, QuantizedLayer):
            _, same = by_bias.setdefault(id(module.bias), (name, []))
            same.append(_Layer(module, _original(name, module, reference)))
    return dict(by_bias.values()), left_out


def _original(name: str, layer: QuantizedLayer, reference: nn.Module) -> nn.Module:
    try:
        original = reference.get_submodule(name)
    except AttributeError:
        raise ValueError(
            f"the reference has no layer {name}: pass the float model that was quantized"
        ) from None
    if isinstance(original, QuantizedLayer):
        raise ValueError(
            f"layer {name} of the reference is quantized: pass the float model that was quantized"
        )
    weight, bias = getattr(original, "weight", None), getattr(original, "bias", None)
    if weight is None or weight.shape != layer.weight.shape or bias is None:
        raise ValueError(
            f"layer {name} of the reference is another one (or its batch norm is not folded): pass the float "
            "model that was quantized"
        )
    return original
