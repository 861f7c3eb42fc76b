"""Turns a float model into a fake-quantized one, from outside."""

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fisher_detr.layers.attention import AttentionProducts
from fisher_detr.quantization.calibration import calibrate_weights, require_fisher
from fisher_detr.quantization.coverage import CoverageReport, coverage_report
from fisher_detr.quantization.layers import QuantAttentionProducts, QuantizedLayer
from fisher_detr.quantization.selection import (
    COUNTERPARTS,
    WeightGroup,
    is_at_or_below,
    kind_of,
    weight_groups,
)
from fisher_detr.structures import MAX_BITS, MIN_BITS, BitAllocation, QuantSpec, ScaleMethod

logger = logging.getLogger(__name__)


def quantize_model(
    model: nn.Module,
    allocation: BitAllocation | None = None,
    *,
    bits: int | None = None,
    activation_bits: int = 8,
    per_channel: bool = True,
    skip: Sequence[str] = (),
    attention_products: bool = False,
    scale: ScaleMethod = ScaleMethod.MAX,
    fisher: Mapping[str, Tensor] | None = None,
) -> CoverageReport:
    """Turn the convolutions and linear layers of a model into quantized ones, in place.

    Parameters keep their identity and their names; buffers of the quantizers come on top. Weight scales are
    set from the present weights. Ranges of activations are not: call `calibrate_activations`, or load a
    calibrated state dict; until then the model refuses to run. Weights that are loaded later without their
    scales make the scales unset as well: call `calibrate_weights`. To keep the float model, pass a deep copy.

    Args:
        model: a float model. Batch norm is to be folded before (`fold_batch_norm`), if at all.
        allocation: a width for every layer of `quantizable_layers(model, skip)`.
        bits: the width of all layers, instead of an allocation.
        activation_bits: width of the input of every quantized layer (affine, per tensor); 0: not quantized.
        per_channel: one weight scale for each output channel, or one for the tensor.
        skip: module paths (output heads) that stay in full precision, with everything below them.
        attention_products: also quantize the operands of attention's products, to `activation_bits`.
        scale: how weight scales are chosen.
        fisher: Fisher diagonal of every layer's weight by layer name, for `ScaleMethod.FISHER`.

    Returns:
        CoverageReport: everything that is and is not quantized.

    Raises:
        ValueError: the allocation does not fit the model, a skipped path is no module of it, or options
            contradict each other; the model is unchanged.
    """
    groups = weight_groups(model, skip)
    quantized = [group for group in groups if not group.reason]
    widths = _widths(quantized, allocation, bits)
    require_fisher(widths, scale, fisher)
    input_spec = QuantSpec(activation_bits, symmetric=False, per_channel=False) if activation_bits else None
    if attention_products and input_spec is None:
        raise ValueError("attention_products quantizes activations: set activation_bits to 2 to 8, not 0")
    for group in quantized:
        _convert(group, QuantSpec(widths[group.layer_name], per_channel=per_channel), input_spec)
    if attention_products:
        _convert_products(model, skip, input_spec)
    calibrate_weights(model, scale, fisher)
    report = coverage_report(model, groups)
    logger.info("Quantized model: %s", report.summary())
    return report


def _widths(
    quantized: list[WeightGroup], allocation: BitAllocation | None, bits: int | None
) -> Mapping[str, int]:
    names = [group.layer_name for group in quantized]
    _refuse_quantized(quantized)
    if (allocation is None) == (bits is None):
        raise ValueError("pass either an allocation or the same number of bits for all layers")
    widths = dict.fromkeys(names, bits) if allocation is None else allocation.bits
    problems = [f"it has no width for {name}" for name in names if name not in widths]
    problems += [f"the model has no quantizable layer {name}" for name in widths if name not in set(names)]
    problems += [f"{n} has {b} bits" for n, b in widths.items() if not MIN_BITS <= b <= MAX_BITS]
    if problems:
        raise ValueError(
            f"the bit allocation does not fit the model: {'; '.join(problems)}. Make it from "
            f"layer_infos(model, skip) with the same skip, and widths of {MIN_BITS} to {MAX_BITS} bits"
        )
    return widths


def _refuse_quantized(groups: list[WeightGroup]) -> None:
    already = [group.layer_name for group in groups if isinstance(group.owners[0], QuantizedLayer)]
    if already:
        raise ValueError(
            f"the model is quantized already ({already[0]}): start from the float model, or a copy of it"
        )


def _convert(group: WeightGroup, weight_spec: QuantSpec, input_spec: QuantSpec | None) -> None:
    for owner in group.owners:
        COUNTERPARTS[kind_of(owner)].from_float(owner, weight_spec, input_spec)
        owner.weight_quantizer = group.owners[0].weight_quantizer  # one tensor, one scale


def _convert_products(model: nn.Module, skip: Sequence[str], spec: QuantSpec) -> None:
    device = next(model.parameters()).device
    for name, module in model.named_modules():
        if type(module) is AttentionProducts and not any(is_at_or_below(name, path) for path in skip):
            QuantAttentionProducts.from_float(module, spec).to(device)
