"""Bit allocation: SensitivityTable and limits -> BitAllocation (method.md section 3).

costs and constraints -> Problem -> Program (arrays) -> a choice of widths -> BitAllocation with its reasons.
"""

from fisher_detr.allocation.arms import allocate_arm, budget_bytes, uniform
from fisher_detr.allocation.constraints import (
    Constraint,
    bit_operation_limit,
    byte_limit,
    container_limit,
    latency_limit,
    load_latency_table,
)
from fisher_detr.allocation.cost import Aggregate, Costs, combine
from fisher_detr.allocation.pareto import pareto
from fisher_detr.allocation.plans import allocate
from fisher_detr.allocation.reasons import format_plan
from fisher_detr.allocation.restrictions import Restrictions

__all__ = [
    "Aggregate",
    "Constraint",
    "Costs",
    "Restrictions",
    "allocate",
    "allocate_arm",
    "bit_operation_limit",
    "budget_bytes",
    "byte_limit",
    "combine",
    "container_limit",
    "format_plan",
    "latency_limit",
    "load_latency_table",
    "pareto",
    "uniform",
]
