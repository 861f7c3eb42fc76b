"""What becomes of weights when they are rounded: to nearest, or against the Fisher information."""

import enum
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fisher_detr.quantization.fisher_rounding import DAMPING, FisherRounding
from fisher_detr.quantization.primitives import fake_quantize
from fisher_detr.quantization.scales import weight_scale
from fisher_detr.quantization.selection import layer_biases, quantized_layers
from fisher_detr.structures import QuantSpec, ScaleMethod


class RoundingMethod(enum.StrEnum):
    """How a weight becomes a level."""

    NEAREST = "nearest"
    FISHER_WEIGHTS = "fisher_weights"  # so that errors within an output channel make up for each other
    FISHER = "fisher"  # and the bias for what they leave on average


@torch.no_grad()
def round_weights(
    model: nn.Module,
    moments: Mapping[str, Tensor],
    *,
    damping: float = DAMPING,
    search_scales: bool = False,
) -> None:
    """Replace the weights of all quantized layers by rounded ones, in place; biases where H has them.

    Their quantizers then give the weights themselves, so that everything after (packing, export) is as ever.
    What the weights were is lost: keep the float model to round again.

    Args:
        model: a quantized model whose weight scales are set.
        moments: H of every quantized layer, by name; zeros: round to nearest.
        damping: part of the mean of H's diagonal; see `FisherRounding`.
        search_scales: also look for better scales around those of the model, of least squared error at best.

    Raises:
        ValueError: a layer has no moment or none that fits.
    """
    layers, biases = quantized_layers(model), layer_biases(model)
    if missing := [name for name in layers if name not in moments]:
        raise ValueError(f"rounding against the Fisher needs the moment of {', '.join(missing)}")
    for name, layer in layers.items():
        quantizer, weight = layer.weight_quantizer, layer.weight
        try:
            rounding = FisherRounding(weight, moments[name], damping)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if rounding.has_bias and name not in biases:
            raise ValueError(f"{name}: the moment has a bias, and the layer has none of its own")
        if search_scales:
            quantizer.set_scale(rounding.search_scale(quantizer.scale, quantizer.spec))
        rounded = rounding.round(quantizer.scale, quantizer.spec)
        if rounding.has_bias:
            biases[name] += rounding.bias_shift(rounded - weight)
        weight.copy_(rounded)


def quantization_error(
    weight: Tensor,
    bits: int,
    method: ScaleMethod = ScaleMethod.MAX,
    per_channel: bool = True,
    fisher: Tensor | None = None,
    rounding: FisherRounding | None = None,
) -> Tensor:
    """Error `d = Q_b(w) - w` of a weight at a width.

    Args:
        weight: `[C, ...]` weights.
        bits: width b.
        method: how the scale is chosen; with a rounding, `fisher` is the scale that leaves the least `d'Hd`.
        per_channel: one scale for each output channel, or one for the tensor.
        fisher: Fisher diagonal of the weight, for the method `fisher` without a rounding.
        rounding: of this weight; None: to nearest.

    Returns:
        Tensor: of the shape and dtype of `weight`, detached.
    """
    return quantization_errors(weight, [bits], method, per_channel, fisher, rounding)[0]


def quantization_errors(
    weight: Tensor,
    widths: Sequence[int],
    method: ScaleMethod = ScaleMethod.MAX,
    per_channel: bool = True,
    fisher: Tensor | None = None,
    rounding: FisherRounding | None = None,
) -> list[Tensor]:
    """What `quantization_error` returns of each width; with a rounding faster than one after the other."""
    specs, weight = [QuantSpec(bits, per_channel=per_channel) for bits in widths], weight.detach()
    search = rounding is not None and method is ScaleMethod.FISHER
    first = ScaleMethod.MSE if search else method
    scales = [weight_scale(weight, spec, first, None if search else fisher) for spec in specs]
    if rounding is None:
        rounded = [fake_quantize(weight, scale, spec) for scale, spec in zip(scales, specs, strict=True)]
    else:
        rounded = rounding.round_widths(rounding.search_scales(scales, specs) if search else scales, specs)
    return [values - weight for values in rounded]
