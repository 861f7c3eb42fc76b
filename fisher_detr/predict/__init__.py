"""Detection for users: an image in, boxes out, whatever file the model is in."""

from fisher_detr.predict.drawing import draw_detections
from fisher_detr.predict.predictor import Predictor

__all__ = ["Predictor", "draw_detections"]
