"""What a data set's metadata tell, where Detectron2 has registered it."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from fisher_detr.data import complete_metadata, dataset_ids

CATEGORIES = [{"id": 9, "name": "dog", "supercategory": "animal"}, {"id": 2, "name": "car"}]


@pytest.fixture
def name(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    (tmp_path / "plain.json").write_text(json.dumps(content))
    register_coco_instances("plain", {}, str(tmp_path / "plain.json"), str(tmp_path))
    return "plain"


def test_all_of_a_data_set_that_tells_nothing(name, tmp_path):
    complete_metadata(name)
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["car", "dog"]
    assert metadata.thing_supercategories == ["", "animal"]
    assert dataset_ids(name) == [2, 9]
    load_coco_json(metadata.json_file, str(tmp_path), name)  # which sets them again and refuses other values


def test_supercategories_in_the_order_that_is_set_already(name):
    """As of Detectron2's own COCO sets, which tell names and ids."""
    MetadataCatalog.get(name).set(
        thing_classes=["dog", "car"], thing_dataset_id_to_contiguous_id={9: 0, 2: 1}
    )
    complete_metadata(name)
    assert MetadataCatalog.get(name).thing_classes == ["dog", "car"]
    assert MetadataCatalog.get(name).thing_supercategories == ["animal", ""]


def test_file_that_is_absent_leaves_the_metadata_as_they_are(name, tmp_path):
    (tmp_path / "plain.json").unlink()
    complete_metadata(name)
    assert MetadataCatalog.get(name).get("thing_supercategories") is None


@pytest.mark.parametrize("content", [[], {}, {"categories": [{"id": 1}]}, {"categories": 3}], ids=str)
def test_file_that_is_not_coco(name, tmp_path, content):
    (tmp_path / "plain.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"plain.json is not COCO: expected a list 'categories'"):
        complete_metadata(name)
