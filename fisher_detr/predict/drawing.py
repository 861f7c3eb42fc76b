"""Detections on a picture by Detectron2's visualizer, critical ones so that nobody misses them."""

from collections.abc import Collection

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer

# Red, green, blue of the Okabe-Ito palette, which colour-blind readers can tell apart.
CRITICAL = (0.84, 0.37, 0.0)
OTHER = (0.34, 0.71, 0.91)
LEGIBLE = 480  # pixels of the shorter side that labels can be read on


def draw_detections(
    image: np.ndarray,
    found: Instances,
    metadata: Metadata,
    critical: Collection[int] = (),
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw boxes with names and scores; small pictures are enlarged.

    Args:
        image: uint8 [H, W, 3] in BGR.
        found: of a `Predictor`.
        metadata: with `thing_classes`.
        critical: class indices that are filled and drawn on top.
        threshold: detections below this score are left out.

    Returns:
        uint8 [H', W', 3] in BGR.
    """
    scale = max(1.0, LEGIBLE / min(image.shape[:2]))
    visualizer = Visualizer(image[:, :, ::-1], metadata, scale=scale)
    shown = found[found.scores >= threshold]
    is_critical = np.isin(shown.pred_classes.numpy(), list(critical))
    _overlay(visualizer, shown[~is_critical], metadata, OTHER)
    for x0, y0, x1, y1 in shown[is_critical].pred_boxes.tensor.numpy():
        visualizer.draw_polygon(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), CRITICAL, alpha=0.35)
    _overlay(visualizer, shown[is_critical], metadata, CRITICAL)
    return np.ascontiguousarray(visualizer.output.get_image()[:, :, ::-1])


def _overlay(visualizer: Visualizer, shown: Instances, metadata: Metadata, color: tuple) -> None:
    scored = zip(shown.pred_classes.tolist(), shown.scores.tolist(), strict=True)
    visualizer.overlay_instances(
        boxes=shown.pred_boxes,
        labels=[f"{metadata.thing_classes[index]} {score:.0%}" for index, score in scored],
        assigned_colors=[color] * len(shown),
    )
