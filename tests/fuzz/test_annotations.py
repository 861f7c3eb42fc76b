"""COCO files with something wrong in them: read as they are meant, or refused in one line with their name."""

import json
import os
import warnings

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from hypothesis import given, settings
from hypothesis import strategies as st

from fisher_detr.data import check_dataset, complete_metadata
from fisher_detr.data.annotations import TOLERANCE, read_annotations
from tests.faults.damage import damaged
from tests.fuzz.strange import changed, one_line

SOUND = {
    "info": {"year": 2024},
    "images": [
        {"id": 7, "file_name": "b.png", "height": 100, "width": 200},
        {"id": 3, "file_name": "a.png", "height": 50, "width": 60},
    ],
    "categories": [{"id": 9, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 20, 30.5, 40], "iscrowd": 0, "area": 1220},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 60, 50], "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [-0.5, 0.2, 3, 4]},
    ],
}
BOXES = st.lists(
    st.one_of(st.floats(-5, 220), st.integers(-5, 220), st.sampled_from([float("nan"), 1e308])),
    min_size=3,
    max_size=5,
)


def check(data, content, dropped):
    """What was read against what is in the file, entry by entry."""
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert set(data.image_ids) == images.keys() and len(data.image_ids) == len(content["images"])
    assert dict(zip(data.category_ids, data.category_names, strict=True)) == names
    for ids in (data.image_ids, data.category_ids):  # numbers before text
        assert list(ids) == sorted(ids, key=lambda id_: (isinstance(id_, str), id_))
    kept = sorted(data.positions.tolist())
    assert kept == sorted(set(kept)) and (dropped or kept == list(range(len(content["annotations"]))))
    for row, position in enumerate(data.positions):
        annotation, image = content["annotations"][position], images[data.image_ids[data.image_index[row]]]
        assert annotation["image_id"] == image["id"]
        assert data.category_ids[data.class_index[row]] == annotation["category_id"]
        assert data.sizes[data.image_index[row]].tolist() == [image["height"], image["width"]]
        assert data.crowd[row] == bool(annotation.get("iscrowd", 0))
        x, y, w, h = data.boxes[row]
        assert 0 <= x < x + w <= image["width"] * (1 + 1e-12) and 0 <= y < y + h <= image["height"] * (
            1 + 1e-12
        )
        ends = [x, y, x + w, y + h]
        told = annotation["bbox"]
        meant = [told[0], told[1], told[0] + told[2], told[1] + told[3]]
        assert np.abs(np.array(ends) - np.array(meant, float)).max() <= TOLERANCE * (1 + 1e-9)


def read(path, content, drop=False):
    """Read a file, and hold it against its content; what was wrong with it, or None."""
    path.write_text(json.dumps(content))
    try:
        with warnings.catch_warnings(action="error"):
            check(read_annotations(path, drop), content, drop)
    except ValueError as error:
        return one_line(error, str(path))
    return None


@given(changed(SOUND), st.booleans())
def test_changed_files(tmp_path, content, drop):
    read(tmp_path / "annotations.json", content, drop)


@given(st.lists(BOXES, max_size=4), st.booleans())
def test_boxes(tmp_path, boxes, drop):
    rest = {"id": 1, "image_id": 7, "category_id": 9}
    annotations = [rest | {"id": number, "bbox": box} for number, box in enumerate(boxes)]
    read(tmp_path / "annotations.json", SOUND | {"annotations": annotations}, drop)


def test_the_sound_file_is_read(tmp_path):
    assert read(tmp_path / "annotations.json", SOUND) is None


def test_damaged_bytes(tmp_path):
    """What is still JSON may be a sound file with another number in it."""
    path = tmp_path / "annotations.json"
    for bytes_ in damaged(json.dumps(SOUND).encode(), 400):
        path.write_bytes(bytes_)
        try:
            read_annotations(path)
        except ValueError as error:
            one_line(error, str(path))


@settings(max_examples=150)
@given(changed(SOUND))
def test_files_that_detectron2_has_registered(tmp_path, content):
    """Only what is quickly seen is checked of them: they pass, or are refused in one line."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    register_coco_instances("fuzzed", {}, str(path), str(tmp_path))
    try:
        check_dataset("fuzzed")
        complete_metadata("fuzzed")
    except (ValueError, FileNotFoundError) as error:
        one_line(error)
        assert str(path) in str(error) or str(tmp_path) in str(error)
    finally:
        DatasetCatalog.remove("fuzzed")
        MetadataCatalog.remove("fuzzed")


@pytest.mark.parametrize("side", [True, 10**400, 2**63, float("inf"), "60"])
def test_sizes_that_are_no_pixels(tmp_path, side):
    content = json.loads(json.dumps(SOUND))
    content["images"][0]["height"] = side
    assert "expected whole pixels above 0" in read(tmp_path / "annotations.json", content)


@pytest.mark.parametrize("box", [[0.0, 1e308, 0.0, 1e308], [1e308, 0.0, 1e308, 1.0], [0, 0, float("inf"), 1]])
def test_boxes_whose_ends_are_beyond_all_numbers(tmp_path, box):
    """Refused without a warning of NumPy's on the way."""
    content = json.loads(json.dumps(SOUND))
    content["annotations"][0]["bbox"] = box
    assert read(tmp_path / "annotations.json", content)


@pytest.mark.parametrize("box", [[10**400, 1, 2, 3], [True, 1, 2, 3]])
def test_boxes_that_are_no_numbers(tmp_path, box):
    content = json.loads(json.dumps(SOUND))
    content["annotations"][0]["bbox"] = box
    assert read(tmp_path / "annotations.json", content)


OTHER_ENTRIES = {
    "no id": ("categories", {"id": None}),
    "ids of two kinds": ("categories", {"id": "9"}),
    "a name that is no text": ("categories", {"name": 3}),
    "a file that is no text": ("images", {"file_name": 7}),
}


@pytest.mark.parametrize("case", OTHER_ENTRIES)
def test_entries_of_a_registered_file(tmp_path, case):
    section, change = OTHER_ENTRIES[case]
    content = json.loads(json.dumps(SOUND))
    content[section][0].update(change)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    register_coco_instances("other", {}, str(path), str(tmp_path))
    try:
        with pytest.raises(
            ValueError, match=f"annotation file {path} is not COCO: expected a list '{section}'"
        ):
            check_dataset("other")
    finally:
        DatasetCatalog.remove("other")
        MetadataCatalog.remove("other")


def test_names_of_several_lines(tmp_path):
    content = json.loads(json.dumps(SOUND))
    content["images"][0]["file_name"] = "a\nb.png"
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    assert "(a b.png, 200 x 100)" in read(tmp_path / "annotations.json", content)


def test_nothing_is_written_into_the_repository():
    assert not os.path.exists(".hypothesis")
