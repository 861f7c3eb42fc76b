"""COCO Panoptic as detection: the boxes of things and stuff, by name, and what is said of wrong files."""

import json
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fisher_detr.critical import resolve_category_set, resolve_category_sets
from fisher_detr.data import check_dataset, coco_panoptic
from fisher_detr.data.categories import coco_categories, coco_panoptic_categories
from fisher_detr.data.coco_panoptic import convert, missing_of_coco_panoptic, prepare_coco_panoptic
from fisher_detr.evaluation import CriticalCategoryEvaluator
from tests.data.layouts import use_tree, write_coco_panoptic_tree, write_coco_tree, write_json

VAL = "coco_2017_val_panoptic_detection"


@pytest.fixture
def tree(tmp_path):
    write_coco_panoptic_tree(tmp_path)
    return tmp_path


def content_of(root, split="val"):
    return json.loads((root / f"coco/annotations/panoptic_detection_{split}2017.json").read_bytes())


def annotation_files(root):
    return {path.name: path.read_bytes() for path in (root / "coco/annotations").iterdir()}


def test_categories():
    """Numbers of COCO's papers and files: 80 things in 12 super-categories, 53 stuff in 15 others."""
    table = coco_panoptic_categories()
    assert [c["id"] for c in table] == sorted({c["id"] for c in table}) and len(table) == 133
    things = Counter(c["supercategory"] for c in table if c["isthing"])
    stuff = Counter(c["supercategory"] for c in table if not c["isthing"])
    assert (sum(things.values()), len(things), sum(stuff.values()), len(stuff)) == (80, 12, 53, 15)
    assert not things.keys() & stuff.keys()
    assert things == {
        "person": 1,
        "vehicle": 8,
        "outdoor": 5,
        "animal": 10,
        "accessory": 5,
        "sports": 10,
        "kitchen": 7,
        "food": 10,
        "furniture": 6,
        "electronic": 6,
        "appliance": 5,
        "indoor": 7,
    }
    group = {c["name"]: c["supercategory"] for c in table}
    for name, expected in (
        ("boat", "vehicle"),
        ("traffic light", "outdoor"),
        ("toothbrush", "indoor"),
        ("banner", "textile"),
        ("door-stuff", "furniture-stuff"),
        ("snow", "ground"),
        ("water-other", "water"),
        ("wall-other-merged", "wall"),
        ("rug-merged", "textile"),
    ):
        assert group[name] == expected
    assert coco_categories() == [{key: c[key] for key in ("id", "name", "supercategory")} for c in table[:80]]


def test_boxes_are_those_of_the_segments(tree):
    """The pictures hold the id of every pixel's segment: R + 256 G + 65536 B."""
    assert prepare_coco_panoptic(tree) == ["train", "val"]
    content, source = (
        content_of(tree),
        json.loads((tree / "coco/annotations/panoptic_val2017.json").read_bytes()),
    )
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"]) > 8
    assert sum(a["iscrowd"] for a in content["annotations"]) == 1
    for image in source["annotations"]:
        picture = np.asarray(Image.open(tree / "coco/panoptic_val2017" / image["file_name"])).astype(int)
        segments = picture @ [1, 256, 65536]
        expected = set()
        for segment in image["segments_info"]:
            ys, xs = np.nonzero(segments == segment["id"])
            box = xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
            expected.add((segment["category_id"], *map(int, box), len(xs), segment["iscrowd"]))
        found = [a for a in content["annotations"] if a["image_id"] == image["image_id"]]
        assert {(a["category_id"], *a["bbox"], a["area"], a["iscrowd"]) for a in found} == expected
        assert any(a["area"] < a["bbox"][2] * a["bbox"][3] for a in found) or len(found) == 1, "stuff's area"


def test_registered_by_name_with_sets(tree, monkeypatch):
    use_tree(monkeypatch, tree)
    metadata = MetadataCatalog.get(VAL)
    assert len(metadata.thing_classes) == 133 and metadata.thing_dataset_id_to_contiguous_id[200] == 132
    sets = {s.name: s for s in resolve_category_sets(["supercategories", "things", "stuff"], metadata)}
    assert len(sets) == 27 + 2
    assert (len(sets["things"]), len(sets["stuff"]), len(sets["furniture_stuff"])) == (80, 53, 8)
    assert sets["stuff"].indices == tuple(range(80, 133))
    mixed = resolve_category_set("seen=person+stuff", metadata)
    assert mixed.indices == (0, *range(80, 133))
    with pytest.raises(ValueError, match="unknown critical category 'things'"):
        resolve_category_set("things", MetadataCatalog.get("coco_2017_val"))


def test_evaluated_by_cocos_protocol(tree, monkeypatch):
    """The ground truth as detections, all in full view: AP is 100 for every category that there is."""
    prepare_coco_panoptic(tree)
    use_tree(monkeypatch, tree)
    check_dataset(VAL)
    records = DatasetCatalog.get(VAL)
    assert len(records) == 4 and [len(r["annotations"]) for r in records] == [1, 4, 3, 4]
    evaluator = CriticalCategoryEvaluator(VAL, ["things", "stuff"], distributed=False)
    evaluator.reset()
    ids = dict.fromkeys(record["image_id"] for record in records)
    for annotation in content_of(tree)["annotations"]:
        ids[annotation["image_id"]] = [*(ids[annotation["image_id"]] or []), annotation]
    evaluator._predictions = [
        {"image_id": id_, "instances": [a | {"score": 0.9} for a in annotations if not a["iscrowd"]]}
        for id_, annotations in ids.items()
    ]
    for prediction in evaluator._predictions:
        for instance in prediction["instances"]:
            index = evaluator._metadata.thing_dataset_id_to_contiguous_id[instance["category_id"]]
            instance["category_id"] = index
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] == results["AP_things"] == results["AP_stuff"] == pytest.approx(100)


def test_runs_again_at_once(tree):
    prepare_coco_panoptic(tree, ["val"])
    path = tree / "coco/annotations/panoptic_detection_val2017.json"
    before = path.stat()
    assert prepare_coco_panoptic(tree) == ["train"]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it stays"
    assert prepare_coco_panoptic(tree) == []
    (tree / "coco/annotations/panoptic_train2017.json").unlink()
    assert prepare_coco_panoptic(tree) == [] == missing_of_coco_panoptic(tree), "the sources may be gone"


def test_another_source_makes_it_anew(tree):
    prepare_coco_panoptic(tree, ["val"])
    path = tree / "coco/annotations/panoptic_val2017.json"
    content = json.loads(path.read_bytes())
    content["annotations"].pop()
    write_json(path, content)
    assert prepare_coco_panoptic(tree, ["val"]) == ["val"]
    assert len({a["image_id"] for a in content_of(tree)["annotations"]}) == 3


def test_interrupted_run_leaves_no_file(tree, monkeypatch):
    def interrupted(content, path):
        if "val" in path.name:
            raise KeyboardInterrupt
        return convert(content, path)

    before = annotation_files(tree)
    monkeypatch.setattr(coco_panoptic, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_coco_panoptic(tree)
    assert annotation_files(tree).keys() - before.keys() == {"panoptic_detection_train2017.json"}
    monkeypatch.undo()
    assert prepare_coco_panoptic(tree) == ["val"]


def test_empty_root(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"panoptic_train2017.json and .*panoptic_val2017.json does not exist: unpack .*--root",
    ):
        prepare_coco_panoptic(tmp_path)
    assert len(missing_of_coco_panoptic(tmp_path)) == 2 and not list(tmp_path.iterdir())


def test_instances_in_place_of_a_panoptic_file(tree, tmp_path):
    write_coco_tree(tree)
    annotations = tree / "coco/annotations"
    (annotations / "instances_val2017.json").replace(annotations / "panoptic_val2017.json")
    before = annotation_files(tree)
    with pytest.raises(ValueError, match="panoptic_val2017.json holds boxes of instances, expected segments"):
        prepare_coco_panoptic(tree, ["val"])
    assert annotation_files(tree) == before


def test_half_a_file(tree):
    path = tree / "coco/annotations/panoptic_val2017.json"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="panoptic file .* is not valid JSON"):
        prepare_coco_panoptic(tree, ["val"])
    assert "panoptic_detection_val2017.json" not in annotation_files(tree)


def test_missing_images(tree, monkeypatch):
    prepare_coco_panoptic(tree)
    (tree / "coco/val2017/000000100009.jpg").unlink()
    (line,) = missing_of_coco_panoptic(tree)
    assert line.startswith("val: 1 of 4 images are missing in ") and "000000100009.jpg" in line
    assert line.endswith("unpack val2017.zip there")
    use_tree(monkeypatch, tree)
    with pytest.raises(FileNotFoundError, match=f"data set '{VAL}': 1 of 4 images are missing .*--check"):
        check_dataset(VAL)
    check_dataset("coco_2017_train_panoptic_detection")


def test_not_prepared_yet(tree, monkeypatch):
    use_tree(monkeypatch, tree)
    with pytest.raises(FileNotFoundError, match=r"detection_val2017.json .*prepare_coco_panoptic.py"):
        check_dataset(VAL)
    assert [line.split(":")[0] for line in missing_of_coco_panoptic(tree)] == ["train", "val"]


def test_a_file_of_someone_else_stays(tree):
    mine = tree / "coco/annotations/panoptic_detection_val2017.json"
    mine.write_text('{"info": {}}')
    with pytest.raises(ValueError, match="was not made by prepare_coco_panoptic.py, nothing was changed"):
        prepare_coco_panoptic(tree)
    assert mine.read_text() == '{"info": {}}'


def test_other_categories_than_the_names_tell(tree, monkeypatch):
    prepare_coco_panoptic(tree, ["val"])
    path = tree / "coco/annotations/panoptic_detection_val2017.json"
    content = content_of(tree)
    content["categories"][132]["name"] = "carpet"
    write_json(path, content)
    use_tree(monkeypatch, tree)
    with pytest.raises(ValueError, match=f"'{VAL}' has 133 categories and its annotation file .* others"):
        check_dataset(VAL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "expected the lists images, annotations, categories"),
        (lambda c: c.pop("images") and c, "expected the lists images"),
        (lambda c: c["annotations"][0].pop("segments_info") and c, "expected segments_info in every"),
        (
            lambda c: c["annotations"][1]["segments_info"][0].pop("area") and c,
            "needs category_id, bbox, area",
        ),
        (lambda c: c["categories"].pop() and c, "has 132 categories, expected COCO's 133"),
    ],
)
def test_broken_files(tree, change, message):
    content = json.loads((tree / "coco/annotations/panoptic_val2017.json").read_bytes())
    with pytest.raises(ValueError, match=f"panoptic file x.json.*{message}"):
        convert(change(content), "x.json")


def test_empty_box_is_told_before_anything_is_written(tree):
    path = tree / "coco/annotations/panoptic_val2017.json"
    content = json.loads(path.read_bytes())
    content["annotations"][0]["segments_info"][0]["bbox"] = [3, 4, 0, 5]
    write_json(path, content)
    with pytest.raises(ValueError, match=r"panoptic_val2017.json: .* \[3, 4, 0, 5\] is empty"):
        prepare_coco_panoptic(tree, ["val"])
    assert "panoptic_detection_val2017.json" not in annotation_files(tree)
