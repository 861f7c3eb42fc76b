import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from fisher_detr.predict import draw_detections

GREY = 128
METADATA = Metadata(name="drawing", thing_classes=["cat", "car"])


def drawn(boxes, classes, scores, side=480, **options):
    found = Instances((side, side))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes, found.scores = torch.tensor(classes, dtype=torch.long), torch.tensor(scores)
    return draw_detections(np.full((side, side, 3), GREY, np.uint8), found, METADATA, **options)


def test_critical_boxes_are_filled_and_others_are_not():
    boxes = [[40, 40, 200, 200], [280, 280, 440, 440]]
    picture = drawn(boxes, [0, 1], [0.9, 0.9], critical=[1])
    assert (picture[120, 120] == GREY).all(), "a box that is not critical is an outline"
    blue, _, red = map(int, picture[360, 360])
    assert red > GREY + 20 > GREY - 20 > blue, "orange, in OpenCV's order of colours"
    assert (picture[120, 40] != GREY).any()
    assert (picture[240, 240] == GREY).all()


def test_the_threshold():
    nothing = drawn([[40, 40, 200, 200]], [0], [0.49])
    assert (nothing == GREY).all()
    assert (drawn([[40, 40, 200, 200]], [0], [0.51]) != GREY).any()
    assert (drawn([], [], []) == GREY).all()


@pytest.mark.parametrize(("side", "expected"), [(100, 480), (480, 480), (600, 600)])
def test_small_pictures_are_enlarged(side, expected):
    assert drawn([[10, 10, 50, 50]], [0], [0.9], side=side).shape == (expected, expected, 3)
