"""Matching of detections: what counts as the same, and what an export is refused for."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fisher_detr.export import ExportMismatch, Tolerance, compare_detectors  # noqa: E402

TOLERANCE = Tolerance(box=0.5, score=0.01, min_score=0.1)
BOXES = [[0.0, 0.0, 10.0, 10.0], [20.0, 5.0, 40.0, 30.0]]


def found(boxes=BOXES, scores=(0.9, 0.6), classes=(0, 1)):
    count = len(scores)
    return Instances(
        (60, 80),
        pred_boxes=Boxes(torch.tensor(boxes).view(-1, 4)[:count]),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def compare(reference, exported, tolerance=TOLERANCE):
    return compare_detectors(
        lambda batch: [{"instances": reference}] * len(batch),
        lambda batch: [{"instances": exported}] * len(batch),
        [[{}]],
        tolerance,
    )


def test_the_same_in_another_order():
    other = found(BOXES[::-1], (0.6, 0.9), (1, 0))
    result = compare(found(), other)
    assert (result.detections, result.matched, result.box, result.score) == (4, 4, 0.0, 0.0)
    result.require()


def test_differences_are_the_farthest():
    moved = [[0.0, 0.0, 10.0, 10.25], BOXES[1]]
    result = compare(found(), found(moved, (0.9, 0.605)))
    assert result.matched == 4
    assert result.box == pytest.approx(0.25)
    assert result.score == pytest.approx(0.005, abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        found([[0.0, 0.0, 10.0, 10.6], BOXES[1]]),
        found(scores=(0.9, 0.62)),
        found(classes=(0, 2)),
        found(scores=(0.9,), classes=(0,)),
        found([*BOXES, [1.0, 1.0, 9.0, 9.0]], (0.9, 0.6, 0.5), (0, 1, 1)),
    ],
    ids=["box", "score", "class", "missing", "too many"],
)
def test_what_is_not_the_same(other):
    for result in (compare(found(), other), compare(other, found())):
        assert 0 < result.matched < result.detections
        with pytest.raises(ExportMismatch, match="expected at least 100.0% to agree: do not use the file"):
            result.require()


def test_unconfident_detections_need_no_counterpart():
    result = compare(found(scores=(0.9, 0.05)), found(scores=(0.9,), classes=(0,)))
    assert (result.detections, result.matched) == (2, 2)


def test_a_confident_one_may_match_one_just_below():
    result = compare(found(scores=(0.9, 0.102)), found(scores=(0.9, 0.098)))
    assert (result.detections, result.matched) == (3, 3)


def test_one_detection_is_not_matched_twice():
    twice = found([BOXES[0], BOXES[0]], (0.9, 0.9), (0, 0))
    once = found([BOXES[0]], (0.9,), (0,))
    assert (compare(twice, once).detections, compare(twice, once).matched) == (3, 2)


def test_nothing_found_is_no_agreement():
    """A comparison on images without detections would pass whatever the file does."""
    nothing = found(boxes=[], scores=(), classes=())
    with pytest.raises(ExportMismatch, match="0 of 0 detections"):
        compare(nothing, nothing).require()
    assert compare(found(), nothing).matched == 0


def test_a_part_of_the_image_where_that_is_more():
    moved = [[0.0, 0.0, 10.0, 12.0], BOXES[1]]
    relative = Tolerance(box=0.5, score=0.01, min_score=0.1, relative_box=0.025)
    assert relative.box_of((60, 80)) == 2.0  # of 80 pixels; in a small image half a pixel
    assert relative.box_of((6, 8)) == 0.5
    assert compare(found(), found(moved), relative).agreement == 1.0


def test_agreement_may_be_less_than_all():
    loose = Tolerance(box=0.5, score=0.01, min_score=0.1, agreement=0.5)
    compare(found(), found(classes=(0, 2)), loose).require()
