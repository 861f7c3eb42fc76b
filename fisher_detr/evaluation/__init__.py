"""Evaluation: critical-category AP, bootstrap intervals."""

from fisher_detr.evaluation.critical_evaluator import CriticalCategoryEvaluator

__all__ = ["CriticalCategoryEvaluator"]
