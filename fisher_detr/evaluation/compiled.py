"""The compiled evaluation of faster-coco-eval, whose numbers are pycocotools' own."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any
from unittest import mock

from detectron2.evaluation import coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def compiled_evaluation(ground_truth: COCO, detections: COCO, iou_type: str) -> Any:
    """An evaluation with the interface of COCOeval; masks and keypoints are left to pycocotools.

    Args:
        ground_truth: as pycocotools reads it.
        detections: as its `loadRes` makes them.
        iou_type: "bbox", or a type that pycocotools knows.
    """
    if iou_type != "bbox":
        return COCOeval(ground_truth, detections, iou_type)
    from faster_coco_eval import COCOeval_faster  # an extra

    return COCOeval_faster(ground_truth, detections, iou_type, print_function=_silent)


def require_compiled() -> None:
    """Raise ImportError where faster-coco-eval is not installed."""
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise ImportError(
            "the fast evaluation needs faster-coco-eval, which is not installed: pip install "
            "faster-coco-eval, or leave it out (TEST.FAST_EVAL False)"
        )


@contextlib.contextmanager
def detectron2_evaluates_by(is_compiled: bool) -> Iterator[None]:
    """Let Detectron2's COCOEvaluator use the compiled evaluation where it asks for its own fast one."""
    if not is_compiled:
        yield
        return
    with mock.patch.object(coco_evaluation, "COCOeval_opt", compiled_evaluation):
        yield


def _silent(*_: Any) -> None:
    """COCOeval_faster tells of its steps."""
