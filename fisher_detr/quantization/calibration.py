"""Sets the scales of a quantized model: of weights from their values, of activations from sample batches."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fisher_detr.layers import in_eval_mode
from fisher_detr.quantization.fake_quantizer import (
    ActivationQuantizer,
    FakeQuantizer,
    activation_quantizers,
    bypassed,
    is_training_pass,
)
from fisher_detr.quantization.histogram import Histogram
from fisher_detr.quantization.ranges import RangeMethod, activation_range
from fisher_detr.quantization.selection import quantized_layers
from fisher_detr.structures import ScaleMethod

logger = logging.getLogger(__name__)


def calibrate_weights(
    model: nn.Module, method: ScaleMethod = ScaleMethod.MAX, fisher: Mapping[str, Tensor] | None = None
) -> None:
    """Set the scales of all weight quantizers from the present weights.

    Args:
        model: a quantized model.
        method: max, mse or fisher.
        fisher: for `fisher`: the Fisher diagonal of every quantized layer's weight, by layer name.

    Raises:
        ValueError: `fisher` lacks a layer, or a weight is not finite.
    """
    layers = quantized_layers(model)
    require_fisher(layers, method, fisher)
    for name, layer in layers.items():
        try:
            layer.weight_quantizer.calibrate(layer.weight, method, (fisher or {}).get(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def require_fisher(names: Iterable[str], method: ScaleMethod, fisher: Mapping[str, Tensor] | None) -> None:
    """Raise a ValueError that names the layers without a Fisher diagonal, where the method needs it."""
    missing = [name for name in names if name not in (fisher or {})]
    if missing and ScaleMethod(method) is ScaleMethod.FISHER:
        raise ValueError(f"scale method 'fisher' needs the Fisher diagonal of {', '.join(missing)}")


def calibrate_activations(
    model: nn.Module,
    batches: Iterable[Any],
    method: RangeMethod = RangeMethod.MSE,
    *,
    percentile: float = 99.99,
    quantized_weights: bool = True,
    forward: Callable[[Any], Any] | None = None,
) -> None:
    """Set the ranges of all activation quantizers from forward passes: observe, then set.

    Args:
        model: a quantized model.
        batches: see `observe_activations`, as for `quantized_weights` and `forward`.
        method: max, percentile or mse.
        percentile: see `ranges.activation_range`.
        quantized_weights: observe behind quantized or behind float weights.
        forward: runs the model on a batch.
    """
    histograms = observe_activations(model, batches, quantized_weights=quantized_weights, forward=forward)
    set_activation_ranges(model, histograms, method, percentile=percentile)


def observe_activations(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    quantized_weights: bool = True,
    forward: Callable[[Any], Any] | None = None,
) -> dict[str, Histogram]:
    """Collect the values at all activation quantizers.

    Activations pass through unquantized meanwhile. The model runs in eval mode and without gradients; its
    modes are restored.

    The histograms of float weights serve every bit allocation of one float model. On a toy (two seeds, ranges
    by mse) the output error was the same within 2 % either way at 8-bit activations; with 4-bit weights and
    activations of 4 or 6 bits it was 0.6 to 3.2 % smaller behind quantized weights.

    Args:
        model: a quantized model.
        batches: what `forward` takes, one after the other.
        quantized_weights: observe behind quantized weights, as in deployment, or behind the float weights.
        forward: runs the model on a batch; default: the model itself.

    Returns:
        dict: one histogram for each quantizer that was reached, by its module path.

    Raises:
        ValueError: there are no batches, or a value is not finite.
    """
    kinds = (ActivationQuantizer,) if quantized_weights else (FakeQuantizer,)
    histograms: dict[str, Histogram] = {}
    num_batches = 0
    with in_eval_mode(model), bypassed(model, *kinds), observing(model, histograms), torch.no_grad():
        for batch in batches:
            (forward or model)(batch)
            num_batches += 1
    if not num_batches:
        raise ValueError("calibration got no batches: pass at least one batch of images")
    return histograms


def set_activation_ranges(
    model: nn.Module,
    histograms: Mapping[str, Histogram],
    method: RangeMethod = RangeMethod.MSE,
    *,
    percentile: float = 99.99,
) -> None:
    """Set the range of every activation quantizer whose histogram is given; warn of the others.

    Args:
        model: a quantized model.
        histograms: from `observe_activations`.
        method: max, percentile or mse.
        percentile: see `ranges.activation_range`.
    """
    for name, quantizer in activation_quantizers(model).items():
        if name in histograms:
            quantizer.set_range(*activation_range(histograms[name], quantizer.spec, method, percentile))
        else:
            logger.warning(
                "No calibration batch has reached %s: it stays uncalibrated and refuses to run", name
            )


@contextlib.contextmanager
def observing(
    model: nn.Module, histograms: dict[str, Histogram], *, training: bool = False
) -> Iterator[None]:
    """Record the inputs of activation quantizers into `histograms`, by module path.

    Args:
        model: quantized.
        histograms: what the passes within are added to.
        training: take notice of training passes alone, and not of an evaluation in between.
    """

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def record(module: ActivationQuantizer, inputs: tuple[Tensor]) -> None:
            if not (is_training_pass(module) if training else module.is_observed):
                return
            try:
                histograms.setdefault(name, Histogram()).update(inputs[0])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

        return record

    quantizers = activation_quantizers(model).items()
    handles = [quantizer.register_forward_pre_hook(recorder(name)) for name, quantizer in quantizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def unobserved(model: nn.Module) -> Iterator[None]:
    """Hide the passes within from all who watch activations: they are not the training's."""
    quantizers = activation_quantizers(model).values()
    before = [quantizer.is_observed for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.is_observed = False
        yield
    finally:
        for quantizer, is_observed in zip(quantizers, before, strict=True):
            quantizer.is_observed = is_observed
