"""ONNX files that find what the PyTorch model finds, and whose integers are integers at run time."""

from fisher_detr.export.audit import Arithmetic, Audit, AuditRow, audit
from fisher_detr.export.exporting import ExportResult, export_onnx, feed_of
from fisher_detr.export.processor import processor_flags, saturates
from fisher_detr.export.runtime import OnnxDetector
from fisher_detr.export.settings import MAX_OPSET, MIN_OPSET, ExportSettings, Precision
from fisher_detr.export.verification import (
    FLOAT_TOLERANCE,
    INTEGER_TOLERANCE,
    Comparison,
    ExportMismatch,
    Tolerance,
    compare_detectors,
)
