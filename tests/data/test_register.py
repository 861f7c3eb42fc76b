import itertools
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from fisher_detr.data import register_from_config_strings
from fisher_detr.data.register import parse_entry

CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 200}],
    "categories": [{"id": 9, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "car"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 9, "bbox": [10, 20, 30, 40]}],
}


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """Makes "name:json:root" entries with new names; the catalogs forget them afterwards."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    numbers = itertools.count()

    def make(content=CONTENT, name="toy"):
        path = tmp_path / f"{next(numbers)}.json"
        path.write_text(json.dumps(content))
        return f"{name}:{path}:{tmp_path}"

    return make


def test_metadata_are_complete_after_registration(entry, tmp_path):
    assert register_from_config_strings([entry()]) == ["toy"]
    metadata = MetadataCatalog.get("toy")
    assert metadata.thing_classes == ["car", "dog"]
    assert metadata.thing_supercategories == ["", "animal"]
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 9: 1}
    assert metadata.json_file == str(tmp_path / "0.json") and metadata.image_root == str(tmp_path)
    assert metadata.evaluator_type == "coco"


def test_file_is_read_once_and_records_are_new_on_every_call(entry, tmp_path):
    register_from_config_strings([entry()])
    (tmp_path / "0.json").unlink()
    first = DatasetCatalog.get("toy")
    first[0]["annotations"][0]["bbox"][0] = 99
    assert DatasetCatalog.get("toy")[0]["annotations"][0]["bbox"] == [10, 20, 30, 40]


def test_unused_sets_are_read_later(entry):
    names = register_from_config_strings([entry(), f"absent:{'none.json'}:."], used=["toy"])
    assert names == ["toy", "absent"]
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        DatasetCatalog.get("absent")


def test_relative_paths_start_at_the_working_directory(entry, tmp_path, monkeypatch):
    entry()
    monkeypatch.chdir(tmp_path)
    register_from_config_strings(["toy:0.json:."])
    assert DatasetCatalog.get("toy")[0]["file_name"] == str(tmp_path / "a.png")


def test_registering_again_is_fine_other_paths_are_an_error(entry, tmp_path):
    first = entry()
    register_from_config_strings([first])
    register_from_config_strings([first])
    with pytest.raises(ValueError, match="'toy' is registered already with .*0.json .* choose another name"):
        register_from_config_strings([entry()])
    with pytest.raises(ValueError, match="'coco_2017_val' is registered already"):
        register_from_config_strings([entry(name="coco_2017_val")])


def test_colons_in_the_annotation_path():
    assert parse_entry("name:/a:b.json:/images") == ("name", "/a:b.json", "/images")


@pytest.mark.parametrize("text", ["", "name", "name:file.json", ":file.json:images", "name:file.json:"])
def test_malformed_entries(text):
    with pytest.raises(ValueError, match="expected 'name:annotations.json:image_root'"):
        register_from_config_strings([text])


def test_missing_image_root(entry, tmp_path):
    with pytest.raises(FileNotFoundError, match="none of data set 'toy' is no folder"):
        register_from_config_strings([f"{entry()}/none"])


def test_records_equal_detectron2s_loader(shared_data, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    root = shared_data("aquarium")
    for split, images, boxes in [("train", 448, 3323), ("val", 190, 1491)]:
        json_file, image_root = root / "annotations" / f"instances_{split}.json", root / "images"
        register_from_config_strings([f"aquarium_{split}_test:{json_file}:{image_root}"])
        records = DatasetCatalog.get(f"aquarium_{split}_test")
        assert len(records) == images and sum(len(r["annotations"]) for r in records) == boxes
        expected = load_coco_json(str(json_file), str(image_root), f"aquarium_{split}_expected")
        for record, other in zip(records, expected, strict=True):
            for annotation in other["annotations"]:
                annotation.pop("segmentation", None)
            assert record == other
        metadata = MetadataCatalog.get(f"aquarium_{split}_test")
        assert metadata.thing_classes == MetadataCatalog.get(f"aquarium_{split}_expected").thing_classes
