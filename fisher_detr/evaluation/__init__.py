"""Evaluation: critical-category AP, bootstrap intervals."""

from fisher_detr.evaluation.bootstrap import BootstrapAP, average, bootstrap_ap
from fisher_detr.evaluation.coco import complete_ground_truth
from fisher_detr.evaluation.critical_evaluator import CriticalCategoryEvaluator
from fisher_detr.evaluation.metric_names import box_metrics

__all__ = [
    "BootstrapAP",
    "CriticalCategoryEvaluator",
    "average",
    "bootstrap_ap",
    "box_metrics",
    "complete_ground_truth",
]
