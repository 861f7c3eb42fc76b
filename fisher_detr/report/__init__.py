"""Pictures of what quantization does."""

from fisher_detr.report.detections import Boxes2D, compare_detections, missed_objects

__all__ = ["Boxes2D", "compare_detections", "missed_objects"]
