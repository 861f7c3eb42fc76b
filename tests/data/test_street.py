"""The procedural set: reproducible, valid COCO, as varied as promised, and careful with folders."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO

from fisher_detr.data import street
from fisher_detr.data.street import (
    dataset,
    generate,
    generate_image,
    make_dataset,
    placement,
    scene,
    weather,
)
from fisher_detr.data.street.canvas import SUPERSAMPLING

SMALL = {"train": 6, "val": 4, "test": 5}


def digests(root):
    """The bytes of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("street") / "set"
    assert make_dataset(root, SMALL, seed=3) == ["train", "val", "test"]
    return root


@pytest.fixture(scope="module")
def pictures():
    return [generate_image("train", 0, index) for index in range(80)]


def test_categories_table():
    table = street.categories()
    assert [entry["id"] for entry in table] == list(range(1, len(table) + 1))
    assert {entry["supercategory"] for entry in table} == set(street.SUPERCATEGORIES)
    names = [entry["name"] for entry in table]
    assert len(set(names)) == len(names) and not any("-" in name or " " in name for name in names)
    assert 18 <= len(names) <= 22


def test_long_tail():
    weights = np.array([category.weight for category in street.CATEGORIES])
    assert weights.max() >= 20 * weights.min()
    # 5.9 boxes an image, 2,000 images: the rarest category is expected 2000 * 5.9 * share times
    assert 2000 * 5.9 * weights.min() / weights.sum() >= 80


def test_same_arguments_same_picture():
    first, second = generate_image("val", 5, 11), generate_image("val", 5, 11)
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]


def test_split_seed_and_index_all_matter():
    keys = [(split, seed, index) for split in street.SPLITS for seed in (0, 1) for index in range(4)]
    assert len({generate_image(*key)[0].tobytes() for key in keys}) == len(keys)


def test_pictures_hold_what_is_promised(pictures):
    for image, annotations in pictures:
        assert image.shape == (160, 256, 3) and image.dtype == np.uint8
        assert 2 <= len(annotations) <= 10
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            assert x >= 0 and y >= 0 and x + width <= 256.01 and y + height <= 160.01
            assert 10 <= max(width, height) <= 90 and min(width, height) >= 3
            assert annotation["area"] == pytest.approx(width * height, abs=0.01)
            assert 0.35 <= annotation["visibility"] <= 1 and annotation["iscrowd"] == 0
    longest = np.array([max(a["bbox"][2:]) for _, annotations in pictures for a in annotations])
    assert np.mean((longest >= 20) & (longest <= 70)) > 0.75
    assert longest.min() < 20 and longest.max() > 80


@pytest.mark.parametrize("seed", range(3))
def test_a_box_is_the_box_of_what_is_seen(seed):
    """Paints each object in a colour of its own and looks for it in the composed canvas, before any noise."""
    rng = np.random.default_rng(seed)
    place = scene.sample_street(rng)
    canvas = scene.paint_background(place, rng)
    objects = placement.place_objects(place, rng)
    for number, placed in enumerate(objects):
        placed.pen.patch[:, :, :3] = (255, 0, number)  # nothing else in the scene is a pure blue
        placed.pen.glows.clear()
    bare = replace(place, light=replace(place.light, shadow=0.0), weather=weather.Weather.DAY)
    generate._compose(canvas, objects, bare)
    for number, placed in enumerate(objects):
        seen = (canvas == (255, 0, number)).all(axis=2)
        rows, columns = np.nonzero(seen)
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SUPERSAMPLING
        # a pole in front of an object is part of the scene: it may cut off a little more
        assert (edges[:2] >= np.array(placed.box[:2]) - 1e-9).all()
        assert (edges[2:] <= np.array(placed.box[2:]) + 1e-9).all()
        np.testing.assert_allclose(edges, placed.box, atol=2)
        assert seen.sum() <= np.count_nonzero(placed.pen.patch[:, :, 3]) * placed.visible + 0.5


def test_weather_and_categories_vary(small, pictures):
    assert len(Counter(a["category_id"] for _, annotations in pictures for a in annotations)) >= 18
    seen = {
        image["weather"]
        for split in SMALL
        for image in json.loads((small / f"annotations/{split}.json").read_text())["images"]
    }
    assert seen <= {"day", "dusk", "rain"} and len(seen) >= 2


def test_valid_coco(small):
    for split, count in SMALL.items():
        coco = COCO(str(small / f"annotations/{split}.json"))
        assert coco.getImgIds() == list(range(1, count + 1))
        annotations = coco.dataset["annotations"]
        assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
        assert {len(coco.getAnnIds(imgIds=[image])) > 0 for image in coco.getImgIds()} == {True}
        for image in coco.dataset["images"]:
            assert (small / "images" / split / image["file_name"]).stat().st_size > 2000
            assert (image["height"], image["width"]) == (160, 256)
        expected = generate_image(split, 3, 2)[1]
        found = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
        assert [{k: v for k, v in a.items() if k not in ("id", "image_id")} for a in found] == expected


def test_number_of_processes_does_not_matter(small, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_PART", 2)
    make_dataset(tmp_path / "again", SMALL, seed=3, workers=2)
    assert digests(tmp_path / "again") == digests(small)


def test_smaller_split_is_a_prefix_and_can_be_extended(small, tmp_path):
    root = tmp_path / "grows"
    make_dataset(root, {"train": 3}, seed=3)
    few = json.loads((root / "annotations/train.json").read_text())
    many = json.loads((small / "annotations/train.json").read_text())
    assert few["images"] == many["images"][:3]
    assert few["annotations"] == many["annotations"][: len(few["annotations"])]
    assert make_dataset(root, SMALL, seed=3) == ["train", "val", "test"]
    assert digests(root) == digests(small)


def test_complete_set_is_not_made_again(small, monkeypatch):
    monkeypatch.setattr(dataset, "generate_picture", None)
    before = digests(small)
    assert make_dataset(small, SMALL, seed=3) == []
    assert make_dataset(small, {"val": 4}, seed=3) == []
    assert digests(small) == before


def test_interrupted_run_goes_on(small, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_PART", 2)
    drawn, original = [], dataset.generate_picture

    def interrupted(split, seed, index):
        drawn.append((split, index))
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return original(split, seed, index)

    root = tmp_path / "set"
    monkeypatch.setattr(dataset, "generate_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(root, SMALL, seed=3)
    assert not (root / "annotations/train.json").exists()
    (root / "images/train/.000003.jpg.1.tmp").write_bytes(b"half")
    make_dataset(root, SMALL, seed=3)
    assert digests(root) == digests(small)
    assert Counter(drawn)["train", 0] == 1 and Counter(drawn)["train", 3] == 2


def test_missing_image_is_drawn_again(small, tmp_path):
    root = tmp_path / "set"
    make_dataset(root, {"val": 4}, seed=3)
    (root / "images/val/000002.jpg").unlink()
    assert make_dataset(root, {"val": 4}, seed=3) == ["val"]
    assert (root / "images/val/000002.jpg").read_bytes() == (small / "images/val/000002.jpg").read_bytes()


@pytest.mark.parametrize("manifest", [None, "{}", "not json", '{"generator": "another"}'])
@pytest.mark.parametrize("force", [False, True])
def test_foreign_folder_is_refused_and_left_alone(tmp_path, manifest, force):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"mine")
    if manifest is not None:
        (tmp_path / dataset.MANIFEST).write_text(manifest)
    before = digests(tmp_path)
    with pytest.raises(
        street.DatasetFolderError, match="was not made by make_street.py.*nothing was changed"
    ):
        make_dataset(tmp_path, {"val": 1}, force=force)
    assert digests(tmp_path) == before


def test_other_settings_are_refused_unless_forced(tmp_path):
    root = tmp_path / "set"
    make_dataset(root, {"val": 3}, seed=1)
    before = digests(root)
    with pytest.raises(street.DatasetFolderError, match="seed 1 instead of 2.*--force"):
        make_dataset(root, {"val": 3}, seed=2)
    with pytest.raises(street.DatasetFolderError, match="3 val images instead of 2"):
        make_dataset(root, {"val": 2}, seed=1)
    assert digests(root) == before
    assert make_dataset(root, {"val": 2}, seed=2, force=True) == ["val"]
    assert sorted(path.name for path in (root / "images/val").iterdir()) == ["000000.jpg", "000001.jpg"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev'; expected some of train, val, test"):
        make_dataset(tmp_path / "set", {"dev": 1})
    with pytest.raises(ValueError, match="expected seed >= 0"):
        make_dataset(tmp_path / "set", {"val": 0})
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        generate_image("dev", 0, 0)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(street.DatasetFolderError, match="is a file"):
        make_dataset(file, {"val": 1})
    assert not (tmp_path / "set").exists()
