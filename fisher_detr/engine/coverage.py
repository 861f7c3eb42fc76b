"""What of a detector is quantized, and how many bit operations an image takes."""

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import CoverageReport, coverage_report, trace_products, weight_groups


def model_coverage(cfg: CfgNode, model: nn.Module) -> CoverageReport:
    """What is and is not quantized of a model, in full precision or quantized already.

    Args:
        cfg: QUANT.SKIP_LAYERS says what is left out on purpose.
        model: the model.
    """
    return coverage_report(model, weight_groups(model, cfg.QUANT.SKIP_LAYERS))


def traced_coverage(report: CoverageReport, model: DetrBase, sample: dict[str, Any]) -> CoverageReport:
    """Count the multiply-accumulates of an image.

    Args:
        report: on the model.
        model: in eval mode, with calibrated quantizers if any.
        sample: as the mapper makes it.
    """
    height, width = sample["image"].shape[-2:]
    return report.with_traced(trace_products(model, lambda: model([sample])), (height, width))
