import json
import logging

import numpy as np
import pytest

from fisher_detr.data.annotations import check_boxes, read_annotations


def coco(**changes):
    content = {
        "images": [
            {"id": 7, "file_name": "b.png", "height": 100, "width": 200},
            {"id": 3, "file_name": "a.png", "height": 50, "width": 60},
        ],
        "categories": [{"id": 9, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 20, 30.5, 40], "iscrowd": 0},
            {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 60, 50], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0.1, 0.2, 0.3, 0.4]},
        ],
    }
    return content | changes


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, **options):
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_annotations(path, **options)

    return write_and_read


def with_annotation(**changes):
    return coco(annotations=[{"id": 5, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4]} | changes])


def test_images_and_categories_are_sorted_by_id(read):
    data = read(coco())
    assert data.image_ids == (3, 7) and data.file_names == ("a.png", "b.png")
    assert data.sizes.tolist() == [[50, 60], [100, 200]]
    assert data.category_ids == (2, 9) and data.category_names == ("car", "dog")
    assert data.supercategories == ("", "animal")
    assert data.image_index.tolist() == [0, 1, 1]
    assert data.class_index.tolist() == [0, 1, 0]
    assert data.crowd.tolist() == [True, False, False]
    assert data.positions.tolist() == [1, 0, 2]
    assert data.boxes.tolist() == [[0, 0, 60, 50], [10, 20, 30.5, 40], [0.1, 0.2, 0.3, 0.4]]


def test_no_annotations_and_no_images_are_fine(read):
    data = read(coco(annotations=[], images=[]))
    assert data.boxes.shape == (0, 4) and data.sizes.shape == (0, 2)


def test_rounding_errors_are_clipped():
    boxes = np.array([[-0.4, 99.5, 10, 1.2], [5, 5, 196, 90], [0.1, 0.2, 0.3, 0.4]])
    clipped, problems = check_boxes(boxes, np.array([[100, 200]] * 3))
    assert problems.tolist() == ["", "", ""]
    np.testing.assert_allclose(clipped[0], [0, 99.5, 9.6, 0.5])
    np.testing.assert_allclose(clipped[1], [5, 5, 195, 90])
    assert clipped[2].tolist() == [0.1, 0.2, 0.3, 0.4], "a box inside stays as it is written"


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([10, 10, 0, 5], "is empty"),
        ([10, 10, 5, -1], "is empty"),
        ([10, 10, float("nan"), 5], "is not finite"),
        ([10, 10, float("inf"), 5], "is not finite"),
        ([190, 10, 12, 5], "reaches outside the image"),
        ([-2, 10, 12, 5], "reaches outside the image"),
        ([10, 98, 12, 4], "reaches outside the image"),
        ([-0.5, 10, 0.5, 5], "reaches outside the image"),
    ],
)
def test_bad_boxes_name_file_annotation_image_and_box(read, box, problem):
    with pytest.raises(ValueError, match=problem) as error:
        read(with_annotation(bbox=box))
    text = str(error.value)
    assert "annotations.json" in text and "annotation 5" in text and "b.png, 200 x 100" in text
    assert "\n" not in text and str(box[:2])[:-1] in text


def test_bad_boxes_can_be_left_out(read, caplog):
    content = coco()
    content["annotations"][0]["bbox"] = [296.65, 38.33, 1.03, 0.0]  # as in COCO train2017
    with caplog.at_level(logging.WARNING):
        data = read(content, drop_bad_boxes=True)
    assert len(data.boxes) == len(data.class_index) == len(data.image_index) == len(data.crowd) == 2
    assert data.positions.tolist() == [1, 2]
    assert "annotation 1 of image 7" in caplog.text and len(caplog.records) == 1


def test_more_bad_boxes_are_counted(read):
    content = coco()
    for annotation in content["annotations"]:
        annotation["bbox"] = [1, 1, 0, 0]
    with pytest.raises(ValueError, match=r"\(2 more like it\)"):
        read(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ([], "not COCO: it holds a list"),
        ({"images": [], "annotations": []}, "no list 'categories'"),
        (coco(images={}), "no list 'images'"),
        (coco(images=[{"id": 1}]), "of 'images' needs id, file_name, height, width"),
        (coco(images=[{"id": 1, "file_name": "a", "height": 0, "width": 5}]), "expected whole pixels"),
        (coco(categories=[]), "no categories"),
        (
            coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
            "id in 'categories' 1 appears more",
        ),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "category name 'a' appears more"),
        (
            coco(categories=[{"id": [1], "name": "a"}]),
            r"id \[1\] in 'categories', expected a whole number or",
        ),
        (coco(categories=[{"id": True, "name": "a"}]), "id True in 'categories', expected a whole number"),
        (coco(categories=[{"id": 1, "name": ["x"]}]), r"name \['x'\] in 'categories', expected text"),
        (coco(categories=[{"id": 1, "name": 7}]), "name 7 in 'categories', expected text"),
        (coco(images=[{"id": 1, "file_name": None, "height": 5, "width": 5}]), "file_name None in 'images'"),
        (coco(images=[{"id": {}, "file_name": "a", "height": 5, "width": 5}]), "id {} in 'images'"),
        (with_annotation(image_id=[1]), r"image_id \[1\] in 'annotations', expected a whole number or text"),
        (with_annotation(category_id={}), "category_id {} in 'annotations', expected a whole number or text"),
        (with_annotation(image_id=8), "annotation 5 refers to the unknown image 8"),
        (with_annotation(category_id=8), "annotation 5 of image 7 refers to the unknown category 8"),
        (with_annotation(bbox=[1, 2, 3]), r"bbox \[1, 2, 3\], expected four numbers"),
        (with_annotation(bbox=None), "bbox None, expected four numbers"),
        (with_annotation(bbox=[1, 2, "3", 4]), "expected four numbers"),
        (coco(annotations=[{"id": 1}]), "of 'annotations' needs"),
    ],
)
def test_broken_files_have_one_clear_error(read, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(content)
    assert "\n" not in str(error.value) and "annotations.json" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotation file .*none.json does not exist"):
        read_annotations(tmp_path / "none.json")
