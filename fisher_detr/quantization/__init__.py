"""Fake quantization of any model of convolutions and linear layers, from outside."""

from fisher_detr.quantization.bias_correction import BiasCorrection, BiasMode, correct_biases
from fisher_detr.quantization.calibration import (
    calibrate_activations,
    calibrate_weights,
    observe_activations,
    observing,
    set_activation_ranges,
    unobserved,
)
from fisher_detr.quantization.coverage import (
    CoverageReport,
    ProductCoverage,
    WeightCoverage,
    coverage_report,
)
from fisher_detr.quantization.fake_quantizer import (
    ActivationQuantizer,
    FakeQuantizer,
    WeightQuantizer,
    activation_quantizers,
    bypassed,
)
from fisher_detr.quantization.fisher_rounding import FisherRounding
from fisher_detr.quantization.fold import fold_batch_norm, freeze_batch_norm
from fisher_detr.quantization.histogram import Histogram
from fisher_detr.quantization.layers import QuantAttentionProducts, QuantConv2d, QuantizedLayer, QuantLinear
from fisher_detr.quantization.operations import count_macs
from fisher_detr.quantization.packed import (
    PackedWeight,
    pack_levels,
    pack_weights,
    packed_bytes,
    unpack_levels,
)
from fisher_detr.quantization.packed_file import (
    PACKED_SUFFIX,
    PackedModel,
    is_packed,
    load_packed,
    save_packed,
)
from fisher_detr.quantization.perturbation import HeldWeights, frozen_rounding, held_weights
from fisher_detr.quantization.primitives import (
    LearnedStep,
    StepGradient,
    dequantize,
    fake_quantize,
    quantize,
)
from fisher_detr.quantization.ranges import RangeMethod
from fisher_detr.quantization.rounding import (
    RoundingMethod,
    quantization_error,
    quantization_errors,
    round_weights,
)
from fisher_detr.quantization.scale_training import (
    RangeFollower,
    ScaleTraining,
    fix_scales,
    frozen_quantizers,
    keep_scales_positive,
    learn_scales,
    learned_scales,
    start_steps,
    update_weight_scales,
)
from fisher_detr.quantization.scales import weight_scale
from fisher_detr.quantization.selection import (
    is_at_or_below,
    layer_biases,
    layer_infos,
    quantizable_layers,
    quantized_layers,
    weight_groups,
)
from fisher_detr.quantization.swap import quantize_model
from fisher_detr.quantization.tracing import trace_products

__all__ = [
    "PACKED_SUFFIX",
    "ActivationQuantizer",
    "BiasCorrection",
    "BiasMode",
    "CoverageReport",
    "FakeQuantizer",
    "FisherRounding",
    "HeldWeights",
    "Histogram",
    "LearnedStep",
    "PackedModel",
    "PackedWeight",
    "ProductCoverage",
    "QuantAttentionProducts",
    "QuantConv2d",
    "QuantLinear",
    "QuantizedLayer",
    "RangeFollower",
    "RangeMethod",
    "RoundingMethod",
    "ScaleTraining",
    "StepGradient",
    "WeightCoverage",
    "WeightQuantizer",
    "activation_quantizers",
    "bypassed",
    "calibrate_activations",
    "calibrate_weights",
    "correct_biases",
    "count_macs",
    "coverage_report",
    "dequantize",
    "fake_quantize",
    "fix_scales",
    "fold_batch_norm",
    "freeze_batch_norm",
    "frozen_quantizers",
    "frozen_rounding",
    "held_weights",
    "is_at_or_below",
    "is_packed",
    "keep_scales_positive",
    "layer_biases",
    "layer_infos",
    "learn_scales",
    "learned_scales",
    "load_packed",
    "observe_activations",
    "observing",
    "pack_levels",
    "pack_weights",
    "packed_bytes",
    "quantizable_layers",
    "quantization_error",
    "quantization_errors",
    "quantize",
    "quantize_model",
    "quantized_layers",
    "round_weights",
    "save_packed",
    "set_activation_ranges",
    "start_steps",
    "trace_products",
    "unobserved",
    "unpack_levels",
    "update_weight_scales",
    "weight_groups",
    "weight_scale",
]
