"""What quantization does, seen: a page of charts and tables from the files of runs, and pictures."""

from fisher_detr.report.arms import ReportArm, find_arms
from fisher_detr.report.build import ReportData, ReportRequest, build_report, read_runs
from fisher_detr.report.detections import Boxes2D, compare_detections, draw_detections, missed_objects
from fisher_detr.report.figures import draw_figures
from fisher_detr.report.samples import Sample, read_samples, target_set

__all__ = [
    "Boxes2D",
    "ReportArm",
    "ReportData",
    "ReportRequest",
    "Sample",
    "build_report",
    "compare_detections",
    "draw_detections",
    "draw_figures",
    "find_arms",
    "missed_objects",
    "read_runs",
    "read_samples",
    "target_set",
]
