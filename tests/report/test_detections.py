import numpy as np
import pytest

from fisher_detr.report import Boxes2D, compare_detections, missed_objects
from fisher_detr.report.detections import FOUND, TITLE_HEIGHT, WIDTH
from fisher_detr.structures import CategorySet

PERSON = CategorySet("person", (0,), 2)


def boxes(*rows):
    """Rows of x0, y0, x1, y1, class, score."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Boxes2D(table[:, :4], table[:, 4].astype(int), table[:, 5])


@pytest.mark.parametrize(
    ("detection", "missed"),
    [
        ([0, 0, 10, 10, 0, 0.9], False),
        ([0, 0, 10, 20, 0, 0.9], False),  # IoU 100 / 200: one half is enough
        ([0, 0, 10, 21, 0, 0.9], True),
        ([0, 0, 10, 10, 1, 0.9], True),  # another class
    ],
)
def test_an_object_is_missed_without_a_detection_of_its_class_on_it(detection, missed):
    objects = boxes([0, 0, 10, 10, 0, 1])
    assert missed_objects(objects, boxes(detection), PERSON).tolist() == [missed]


def test_only_critical_objects_are_missed():
    objects = boxes([0, 0, 10, 10, 0, 1], [20, 20, 30, 30, 1, 1])
    assert missed_objects(objects, boxes(), PERSON).tolist() == [True, False]


def test_picture_has_a_row_for_each_image_and_a_column_for_each_model():
    images = [np.zeros((40, 60, 3), np.uint8)] * 2
    objects = [boxes([5, 5, 20, 20, 0, 1]), boxes()]
    found = [boxes([5, 5, 20, 20, 0, 0.9]), boxes([0, 0, 9, 9, 1, 0.2])]
    nothing = [boxes(), boxes()]
    one = compare_detections(images, objects, {"a": found}, PERSON, ["person", "car"])
    two = compare_detections(images, objects, {"a": found, "b": nothing}, PERSON, ["person", "car"])
    assert one.shape[0] == two.shape[0] >= 2 * 80
    assert one.shape[1] == WIDTH
    assert two.shape[1] >= 2 * one.shape[1]
    assert two.dtype == np.uint8
    # The second model misses the person: the same place is drawn differently.
    assert not np.array_equal(two[:, : one.shape[1]], two[:, -one.shape[1] :])


def test_a_label_at_the_right_edge_is_whole():
    """Its background has the size it has in the middle of the picture."""

    def label_pixels(left):
        image, box = np.zeros((60, 200, 3), np.uint8), boxes([left, 40, left + 10, 55, 0, 0.9])
        picture = compare_detections([image], [boxes()], {"a": [box]}, PERSON, ["person", "car"])
        above_the_box = picture[: TITLE_HEIGHT + round(WIDTH / 200 * 40) - 2]
        return (above_the_box == FOUND).all(axis=2).sum()

    assert label_pixels(188) == label_pixels(90) > 400
