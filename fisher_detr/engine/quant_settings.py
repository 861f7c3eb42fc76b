"""The settings of a quantized model."""

import dataclasses

from detectron2.config import CfgNode

from fisher_detr.allocation import Aggregate
from fisher_detr.engine.limits import Limits
from fisher_detr.quantization import BiasMode, RangeMethod, RoundingMethod
from fisher_detr.structures import Combination, Objective, ScaleMethod, SensitivityForm


@dataclasses.dataclass(frozen=True)
class QuantSettings:
    """The keys of QUANT and ALLOCATION that decide what a quantized model is; see config.py."""

    skip: tuple[str, ...]
    fold_norm: bool
    attention_products: bool
    per_channel: bool
    scale: ScaleMethod
    rounding: RoundingMethod
    damping: float
    bias_correction: BiasMode | None
    activation_bits: int
    activation_range: RangeMethod
    percentile: float
    form: SensitivityForm
    widths: tuple[int, ...]
    aux_loss: bool
    objective: Objective
    reweight: float
    set_weights: tuple[float, ...]
    aggregate: Aggregate
    limits: Limits
    mip_gap: float
    time_limit: float

    @property
    def rounds_by_fisher(self) -> bool:
        """Whether weights are rounded against the Fisher information."""
        return self.rounding is not RoundingMethod.NEAREST

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "QuantSettings":
        """Read QUANT and ALLOCATION.

        Raises:
            ValueError: an option has none of its values.
        """
        quant, allocation = cfg.QUANT, cfg.ALLOCATION
        return cls(
            skip=tuple(quant.SKIP_LAYERS),
            fold_norm=quant.FOLD_NORM,
            attention_products=quant.ATTENTION_PRODUCTS,
            per_channel=quant.WEIGHT.PER_CHANNEL,
            scale=ScaleMethod(quant.WEIGHT.SCALE),
            rounding=RoundingMethod(quant.WEIGHT.ROUNDING),
            damping=quant.WEIGHT.DAMPING,
            bias_correction=None if quant.BIAS_CORRECTION == "none" else BiasMode(quant.BIAS_CORRECTION),
            activation_bits=quant.ACTIVATION.BITS,
            activation_range=RangeMethod(quant.ACTIVATION.RANGE),
            percentile=quant.ACTIVATION.PERCENTILE,
            form=SensitivityForm(allocation.SENSITIVITY),
            widths=tuple(allocation.WIDTHS),
            aux_loss=allocation.AUX_LOSS,
            objective=Objective(
                allocation.OVERALL_WEIGHT, allocation.CRITICAL_WEIGHT, Combination(allocation.COMBINE)
            ),
            reweight=cfg.CRITICAL.REWEIGHT,
            set_weights=tuple(float(weight) for weight in allocation.SET_WEIGHTS),
            aggregate=Aggregate(allocation.AGGREGATE),
            limits=Limits.from_config(cfg),
            mip_gap=allocation.MIP_GAP,
            time_limit=allocation.TIME_LIMIT,
        )
