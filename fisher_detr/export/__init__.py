"""ONNX files that find what the PyTorch model finds, and whose integers are integers at run time."""

from importlib.util import find_spec

if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
    raise ImportError(
        f"fisher_detr.export needs {' and '.join(missing)}: install the extra, pip install -e '.[onnx]'"
    )

from fisher_detr.export.audit import Arithmetic, Audit, AuditRow, audit  # noqa: E402
from fisher_detr.export.exporting import ExportResult, export_onnx, feed_of, onnx_bytes  # noqa: E402
from fisher_detr.export.integer_layers import reduce_weight_range  # noqa: E402
from fisher_detr.export.processor import processor_flags, saturates  # noqa: E402
from fisher_detr.export.profiling import profile_layers  # noqa: E402
from fisher_detr.export.runtime import OnnxDetector  # noqa: E402
from fisher_detr.export.settings import MAX_OPSET, MIN_OPSET, ExportSettings, Precision, container  # noqa: E402
from fisher_detr.export.verification import (  # noqa: E402
    FLOAT_TOLERANCE,
    INTEGER_TOLERANCE,
    Comparison,
    ExportMismatch,
    Tolerance,
    compare_detectors,
)

__all__ = [
    "FLOAT_TOLERANCE",
    "INTEGER_TOLERANCE",
    "MAX_OPSET",
    "MIN_OPSET",
    "Arithmetic",
    "Audit",
    "AuditRow",
    "Comparison",
    "ExportMismatch",
    "ExportResult",
    "ExportSettings",
    "OnnxDetector",
    "Precision",
    "Tolerance",
    "audit",
    "compare_detectors",
    "container",
    "export_onnx",
    "feed_of",
    "onnx_bytes",
    "processor_flags",
    "profile_layers",
    "reduce_weight_range",
    "saturates",
]
