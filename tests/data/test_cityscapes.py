"""Cityscapes as detection: the boxes of the official instance images, crowd regions, and half a download."""

import json
from collections import defaultdict

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.critical import resolve_category_sets
from fisher_detr.data import check_dataset, cityscapes
from fisher_detr.data.annotations import read_annotations
from fisher_detr.data.categories import cityscapes_categories
from fisher_detr.data.cityscapes import missing_of_cityscapes, prepare_cityscapes
from fisher_detr.data.cityscapes_polygons import visible_instances
from tests.data.layouts import LABELS, use_tree, write_cityscapes_tree

EVALUATED = (24, 25, 26, 27, 28, 31, 32, 33)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_cityscapes_tree(root)
    assert prepare_cityscapes(root, subset=True) == ["train", "val"]
    return root


@pytest.fixture
def tree(tmp_path):
    write_cityscapes_tree(tmp_path)
    return tmp_path


def content_of(root, split):
    return json.loads((root / f"cityscapes/annotations/gtFine_detection_{split}.json").read_bytes())


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_are_those_of_the_instance_images(prepared, split):
    content = content_of(prepared, split)
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    assert len(content["images"]) == {"train": 4, "val": 2}[split]
    for image in content["images"]:
        path = prepared / f"cityscapes/gtFine/{split}" / image["file_name"]
        path = path.with_name(path.name.replace("leftImg8bit", "gtFine_instanceIds"))
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
        expected = set()
        for value in set(pixels[pixels >= 1000].tolist()):
            ys, xs = np.nonzero(pixels == value)
            box = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
            if value // 1000 in EVALUATED:
                expected.add((value // 1000, *map(int, box), len(xs)))
        found = [a for a in by_image[image["id"]] if not a["iscrowd"]]
        assert {(a["category_id"], *a["bbox"], a["area"]) for a in found} == expected
        assert len(found) == len(expected) > 8
        for id_ in EVALUATED:
            groups = [a for a in by_image[image["id"]] if a["iscrowd"] and a["category_id"] == id_]
            assert sum(a["area"] for a in groups) == (pixels == id_).sum(), (
                "a group's pixels have its class only"
            )


def test_an_image_by_hand():
    """A polygon covers the pixels of its corners; what is drawn later hides what is drawn before."""

    def rectangle(label, x0, y0, x1, y1, **more):
        return {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]} | more

    objects = [
        rectangle("car", 10, 10, 29, 19),  # 20 x 10
        rectangle("pole", 10, 0, 14, 40),  # hides its five left columns
        rectangle("license plate", 20, 12, 22, 14),
        rectangle("cargroup", 40, 10, 49, 14),
        rectangle("cargroup", 60, 10, 64, 14),
        rectangle("person", 70, 10, 75, 15, deleted=1),
        rectangle("bus", 80, 10, 84, 14),
        rectangle("trailer", 80, 10, 84, 14),  # hides the bus completely
        rectangle("rider", 95, 10, 120, 14),  # 5 columns in the image
        rectangle("bicyclegroup", -5, 28, 2, 60),  # 3 columns, 2 rows in the image
    ]
    found = visible_instances({"imgWidth": 100, "imgHeight": 30, "objects": objects}, "image.json")
    assert (found["height"], found["width"]) == (30, 100)
    assert [(a["category_id"], a["bbox"], a["area"], a["iscrowd"]) for a in found["annotations"]] == [
        (26, [15, 10, 15, 10], 150, 0),
        (26, [40, 10, 10, 5], 50, 1),
        (26, [60, 10, 5, 5], 25, 1),
        (25, [95, 10, 5, 5], 25, 0),
        (33, [0, 28, 3, 2], 6, 1),
    ]


def test_registered_by_name(prepared, monkeypatch):
    use_tree(monkeypatch, prepared)
    metadata = MetadataCatalog.get("cityscapes_fine_detection_val")
    assert metadata.thing_classes == [c["name"] for c in cityscapes_categories()]
    records = DatasetCatalog.get("cityscapes_fine_detection_val")
    assert len(records) == 2 and records[0]["file_name"].endswith("lindau_000000_000019_leftImg8bit.png")
    check_dataset("cityscapes_fine_detection_val")
    sets = resolve_category_sets(["supercategories", "person", "two=rider+bicycle"], metadata)
    assert {s.name: s.indices for s in sets} == {
        "human": (0, 1),
        "vehicle": (2, 3, 4, 5, 6, 7),
        "person": (0,),
        "two": (1, 7),
    }


def test_detectron2s_names_stay():
    assert "cityscapes_fine_instance_seg_val" in DatasetCatalog
    assert "cityscapes_fine_sem_seg_val" in DatasetCatalog


def test_the_files_are_those_of_a_second_run(prepared, tree):
    prepare_cityscapes(tree, subset=True)
    assert files_of(tree) == files_of(prepared), "the same bytes, and no parts left"
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.json")}
    assert prepare_cityscapes(tree, subset=True) == []
    assert before == {path: path.stat().st_mtime_ns for path in tree.rglob("*.json")}


def test_an_interrupted_run_goes_on(prepared, tree, monkeypatch):
    read = []

    def interrupted(content, path):
        read.append(path.name)
        if len(read) == 4:
            raise KeyboardInterrupt
        return visible_instances(content, path)

    monkeypatch.setattr(cityscapes, "visible_instances", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_cityscapes(tree, subset=True)
    assert not list(tree.glob("cityscapes/annotations/*.json"))
    prepare_cityscapes(tree, subset=True)
    assert sum("aachen" in name for name in read) == 2, "the first city was done"
    assert files_of(tree) == files_of(prepared)


def test_more_images_make_it_anew(tree):
    prepare_cityscapes(tree, ["val"], subset=True)
    source = next(tree.glob("cityscapes/gtFine/val/lindau/*_000019_gtFine_polygons.json"))
    source.with_name("lindau_000009_000019_gtFine_polygons.json").write_bytes(source.read_bytes())
    assert prepare_cityscapes(tree, ["val"], subset=True) == ["val"]
    assert len(content_of(tree, "val")["images"]) == 3


def test_empty_root(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*polygons.json in .*gtFine/train: unpack .*--root"):
        prepare_cityscapes(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(missing_of_cityscapes(tmp_path)) == 2


def test_fewer_images_than_the_official_split(tree):
    with pytest.raises(FileNotFoundError, match="4 polygon files in .*, the official .* 2975: .*--subset"):
        prepare_cityscapes(tree)


def test_images_without_polygons(tree):
    next(tree.glob("cityscapes/gtFine/train/zurich/*_polygons.json")).unlink()
    with pytest.raises(FileNotFoundError, match="1 images have no polygon file in .*first: zurich/"):
        prepare_cityscapes(tree, subset=True)
    assert not list(tree.glob("cityscapes/annotations/*"))


def test_polygons_without_images(tree, monkeypatch):
    """The boxes can be made; using them is one clear error."""
    next(tree.glob("cityscapes/leftImg8bit/val/lindau/*_000019_leftImg8bit.png")).unlink()
    prepare_cityscapes(tree, subset=True)
    (line,) = missing_of_cityscapes(tree, subset=True)
    assert line.startswith("val: 1 of 2 images are missing in ") and "leftImg8bit_trainvaltest.zip" in line
    use_tree(monkeypatch, tree)
    with pytest.raises(FileNotFoundError, match="'cityscapes_fine_detection_val': 1 of 2 images .*--check"):
        check_dataset("cityscapes_fine_detection_val")


def test_not_prepared_yet(tree, monkeypatch):
    use_tree(monkeypatch, tree)
    with pytest.raises(
        FileNotFoundError, match=r"detection_train.json does not exist.*prepare_cityscapes.py"
    ):
        check_dataset("cityscapes_fine_detection_train")
    assert all("is not made yet" in line for line in missing_of_cityscapes(tree, subset=True))


def test_a_file_of_someone_else_stays(tree):
    mine = tree / "cityscapes/annotations/gtFine_detection_train.json"
    mine.parent.mkdir()
    for text in ("{}", '{"info": {"generator": "me"}}', "no json", ""):
        mine.write_text(text)
        with pytest.raises(ValueError, match="was not made by prepare_cityscapes.py, nothing was changed"):
            prepare_cityscapes(tree, subset=True)
        assert mine.read_text() == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not of Cityscapes"),
        ({"imgHeight": 4, "imgWidth": 4}, "is not of Cityscapes"),
        ({"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "car"}]}, "is not of Cityscapes"),
        ({"label": "van", "polygon": [[0, 0], [1, 1], [2, 0]]}, "'van' is no label of Cityscapes"),
        ({"label": "vangroup", "polygon": [[0, 0], [1, 1], [2, 0]]}, "'vangroup' is no label"),
        ({"label": 3, "polygon": [[0, 0], [1, 1], [2, 0]]}, "3 is no label of Cityscapes"),
        ({"label": "car", "polygon": [[0, 0, 1]]}, "a 'car' has the polygon"),
        ({"label": "car", "polygon": [["a", 0], [1, 1], [2, 0]]}, "a 'car' has the polygon"),
        ({"label": "car", "polygon": [[1, 1]]}, "a 'car' has the polygon"),
        ({"label": "car", "polygon": 5}, "a 'car' has the polygon 5, expected points"),
    ],
    ids=str,
)
def test_broken_polygon_files(content, message):
    if "label" in content:
        content = {"imgHeight": 4, "imgWidth": 4, "objects": [content]}
    with pytest.raises(ValueError, match=f"polygon file x.json.*{message}"):
        visible_instances(content, "x.json")


def test_what_is_prepared_is_read(prepared):
    """The reader checks every box; the fixture's labels are those that the library knows."""
    annotations = read_annotations(prepared / "cityscapes/annotations/gtFine_detection_train.json")
    assert annotations.category_ids == EVALUATED and annotations.crowd.any() and not annotations.crowd.all()
    assert set(annotations.category_names) < set(LABELS)
