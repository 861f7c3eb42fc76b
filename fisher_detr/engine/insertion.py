"""A float model becomes a quantized one, as the settings say."""

from collections.abc import Mapping

from torch import Tensor

from fisher_detr.engine.quant_settings import QuantSettings
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import CoverageReport, fold_batch_norm, freeze_batch_norm, quantize_model
from fisher_detr.structures import BitAllocation, ScaleMethod


def float_model_for_quantization(model: DetrBase, fold_norm: bool) -> DetrBase:
    """Put a model in eval mode with its batch norms frozen or folded, in place."""
    model.eval()
    freeze_batch_norm(model)
    if fold_norm:
        fold_batch_norm(model)
    return model


def insert_quantizers(
    model: DetrBase,
    allocation: BitAllocation,
    settings: QuantSettings,
    fisher: Mapping[str, Tensor] | None = None,
) -> CoverageReport:
    """Quantize a prepared model in place at the widths of an allocation."""
    return quantize_model(
        model,
        allocation,
        activation_bits=settings.activation_bits,
        per_channel=settings.per_channel,
        skip=settings.skip,
        attention_products=settings.attention_products,
        scale=_scale(settings, fisher is not None),
        fisher=fisher,
    )


def _scale(settings: QuantSettings, has_fisher: bool) -> ScaleMethod:
    if settings.scale is not ScaleMethod.FISHER or has_fisher:
        return settings.scale
    # Where rounding begins to look for better ones; or scales that come with a checkpoint.
    return ScaleMethod.MSE if settings.rounds_by_fisher else ScaleMethod.MAX
