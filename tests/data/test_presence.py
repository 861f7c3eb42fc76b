"""Missing and mistaken files of COCO as Detectron2 registers it, and of a user's own data."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fisher_detr.critical import resolve_category_sets
from fisher_detr.data import check_dataset, complete_metadata, register_from_config_strings
from fisher_detr.data.presence import missing_files, read_section
from tests.data.layouts import use_tree, write_coco_panoptic_tree, write_coco_tree, write_json


@pytest.fixture
def tree(tmp_path, monkeypatch):
    write_coco_tree(tmp_path)
    use_tree(monkeypatch, tmp_path)
    return tmp_path


def annotation_file(tree, split="val"):
    return tree / f"coco/annotations/instances_{split}2017.json"


def test_complete(tree):
    for split in ("train", "val"):
        check_dataset(f"coco_2017_{split}")
        complete_metadata(f"coco_2017_{split}")
        assert len(DatasetCatalog.get(f"coco_2017_{split}")) == 4, "Detectron2 reads it"


def test_supercategories_of_coco(tree):
    """Known without the file, and the same as in it."""
    metadata = MetadataCatalog.get("coco_2017_val")
    content = json.loads(annotation_file(tree).read_bytes())
    assert metadata.thing_supercategories == [c["supercategory"] for c in content["categories"]]
    assert len(resolve_category_sets(["supercategories"], metadata)) == 12


def test_no_tree(tmp_path, monkeypatch):
    use_tree(monkeypatch, tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=r"val2017.json of data set 'coco_2017_val' .*point DETECTRON2_DATASETS",
    ):
        check_dataset("coco_2017_val")


def test_no_images(tree):
    for path in (tree / "coco/val2017").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="'coco_2017_val': 4 of 4 images are missing in .*val2017"):
        check_dataset("coco_2017_val")
    (tree / "coco/val2017").rmdir()
    with pytest.raises(FileNotFoundError, match="val2017 of data set 'coco_2017_val' is no folder"):
        check_dataset("coco_2017_val")


def test_one_image_is_missing(tree):
    (tree / "coco/val2017/000000100025.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 4 images .*\(first: 000000100025.jpg\): check its paths"
    ):
        check_dataset("coco_2017_val")


def test_panoptic_in_place_of_instances(tree):
    write_coco_panoptic_tree(tree)
    (tree / "coco/annotations/panoptic_val2017.json").replace(annotation_file(tree))
    with pytest.raises(ValueError, match="is a panoptic file .*, expected one of instances: name instances_"):
        check_dataset("coco_2017_val")
    entry = f"mine:{annotation_file(tree)}:{tree}/coco/val2017"
    with pytest.raises(ValueError, match="is a panoptic file .*, expected one of instances: name instances_"):
        register_from_config_strings([entry])


@pytest.mark.parametrize("left", [-1, 100, 0])
def test_half_a_file(tree, left):
    """Of a download that broke off: without its end, with hardly anything, empty."""
    annotation_file(tree).write_bytes(annotation_file(tree).read_bytes()[:left])
    with pytest.raises(ValueError, match="annotation file .* is (cut off|empty): unpack it again"):
        check_dataset("coco_2017_val")


def test_other_categories_below_cocos_name(tree):
    content = json.loads(annotation_file(tree).read_bytes())
    content["categories"] = content["categories"][:3]
    write_json(annotation_file(tree), content)
    with pytest.raises(
        ValueError, match="'coco_2017_val' has 80 categories .*others \\(3\\): register your own"
    ):
        check_dataset("coco_2017_val")


@pytest.mark.parametrize("change", [{"images": 3}, {"images": [{"id": 1}]}, {"categories": None}], ids=str)
def test_not_coco(tree, change):
    write_json(annotation_file(tree), json.loads(annotation_file(tree).read_bytes()) | change)
    with pytest.raises(ValueError, match=r"val2017.json is not COCO: expected a list '\w+' with id and"):
        check_dataset("coco_2017_val")


def test_sets_of_a_user(tree):
    """By DATASETS.REGISTER and by Detectron2's function."""
    json_file, root = annotation_file(tree), tree / "coco/val2017"
    register_from_config_strings([f"registered:{json_file}:{root}"])
    register_coco_instances("by_detectron2", {}, str(json_file), str(root))
    next(root.iterdir()).unlink()
    for name in ("registered", "by_detectron2"):
        with pytest.raises(FileNotFoundError, match=f"data set '{name}': 1 of 4 images are missing"):
            check_dataset(name)


def test_what_is_not_coco_is_left_alone(tree):
    check_dataset("cityscapes_fine_sem_seg_val")
    check_dataset("voc_2007_val")


def test_read_section(tmp_path):
    """Wherever the list stands, and however the file is written."""
    entries = [{"id": 1, "file_name": "ä.jpg"}, {"id": 2, "file_name": "b\\u00e4.jpg"}]
    for content in (
        {"images": entries, "categories": []},
        {"info": {"images": 3}, "categories": [], "images": entries},
        {"info": {"note": 'the "images"'}, "images": entries},
    ):
        for indent, ascii_only in ((None, True), (2, False)):
            path = tmp_path / "file.json"
            path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii_only))
            assert read_section(path, "images") == entries


def test_missing_files(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = ["3.jpg", "a/1.jpg", "a/9.jpg", "b/1.jpg", "4.jpg", str(tmp_path / "a/2.jpg")]
    assert missing_files(tmp_path, names) == ["a/9.jpg", "b/1.jpg", "4.jpg"]


def test_the_folder_of_all_data_sets_in_an_entry(tree, monkeypatch, tmp_path_factory):
    entry = (
        "here:$DETECTRON2_DATASETS/coco/annotations/instances_val2017.json:$DETECTRON2_DATASETS/coco/val2017"
    )
    register_from_config_strings([entry])
    assert MetadataCatalog.get("here").json_file == str(annotation_file(tree))
    monkeypatch.delenv("DETECTRON2_DATASETS")
    (tree / "datasets").symlink_to(tree)
    monkeypatch.chdir(tree)
    register_from_config_strings([entry.replace("here", "there")])
    assert MetadataCatalog.get("there").image_root == str(tree / "datasets/coco/val2017")
