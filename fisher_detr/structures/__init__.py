"""The data that flows between the rooms: small frozen dataclasses, without torch.

category names -> CategorySet; layer statistics -> SensitivityTable -> BitAllocation -> quantized model.
"""

from fisher_detr.structures.bit_allocation import BitAllocation
from fisher_detr.structures.category_set import CategorySet
from fisher_detr.structures.checks import MAX_BITS, MIN_BITS, check_widths
from fisher_detr.structures.layer import SCALE_BYTES, LayerInfo, QuantSpec, check_layers
from fisher_detr.structures.objective import Objective
from fisher_detr.structures.options import (
    FULL_PRECISION,
    NEAREST,
    Arm,
    ClassLoss,
    Combination,
    ScaleMethod,
    SensitivityForm,
)
from fisher_detr.structures.sensitivity import SensitivityTable

__all__ = [
    "FULL_PRECISION",
    "MAX_BITS",
    "MIN_BITS",
    "NEAREST",
    "SCALE_BYTES",
    "Arm",
    "BitAllocation",
    "CategorySet",
    "ClassLoss",
    "Combination",
    "LayerInfo",
    "Objective",
    "QuantSpec",
    "ScaleMethod",
    "SensitivityForm",
    "SensitivityTable",
    "check_layers",
    "check_widths",
]
