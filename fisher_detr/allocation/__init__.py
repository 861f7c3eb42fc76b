"""Bit allocation: SensitivityTable and a budget in bytes -> BitAllocation (method.md section 3)."""

from fisher_detr.allocation.cost import combine
from fisher_detr.allocation.plans import allocate, allocate_arm, budget_bytes, uniform

__all__ = ["allocate", "allocate_arm", "budget_bytes", "combine", "uniform"]
