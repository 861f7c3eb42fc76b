"""What datasets/README.md says works as it says."""

import re
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.critical import resolve_category_sets
from fisher_detr.engine import load_config
from tests.data.layouts import use_tree
from tests.docs.pages import blocks
from tests.engine.tiny_coco import make_tiny_coco, write_annotations

FOLDER = Path(__file__).resolve().parents[2] / "datasets"
README = (FOLDER / "README.md").read_text()
NAMES = re.findall(r"`((?:coco|cityscapes)_\w+_(?:train|val)\w*)`", README)


def test_names_are_known():
    assert len(set(NAMES)) == 6
    assert set(NAMES) <= set(DatasetCatalog)


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_trees_are_those_of_the_names(name, tmp_path, monkeypatch):
    """Every file is named in the tree, up to the split's letters in braces."""
    use_tree(monkeypatch, tmp_path)
    metadata = MetadataCatalog.get(name)
    tree = re.sub(r"\{train,val\}", "train", README) + re.sub(r"\{train,val\}", "val", README)
    assert Path(metadata.json_file).name in tree
    assert f"{Path(metadata.image_root).name}/" in tree or "leftImg8bit" in metadata.image_root
    (row,) = [line for line in README.splitlines() if f"`{name}`" in line and line.startswith("| [")]
    count, groups = row.split("|")[3:5]
    assert int(count) == len(metadata.thing_classes)
    sets = resolve_category_sets(["supercategories"], metadata)
    assert re.match(r" (\d+)?", groups).group(1) in (str(len(sets)), None)
    assert all(s.name in groups for s in sets) or str(len(sets)) in groups


def test_config_for_a_set_of_ones_own(tmp_path, monkeypatch):
    """The block of the page, on top of the base that it names."""
    use_tree(monkeypatch, tmp_path)
    content = make_tiny_coco(tmp_path / "mine/images")
    for split in ("train", "val"):
        write_annotations(tmp_path / "mine", content, f"{split}.json")
    page = [block.text for block in blocks(FOLDER / "README.md")]
    (data,) = [text for text in page if text.startswith("DATASETS:\n")]
    (bases,) = [text for text in page if text.startswith("_BASE_: ")]
    (tmp_path / "Base-mine.yaml").write_text(data)
    (tmp_path / "model.yaml").write_text(bases.replace("../", f"{FOLDER.parent}/configs/"))
    cfg = load_config(str(tmp_path / "model.yaml"), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    assert cfg.MODEL.META_ARCHITECTURE == "DeformableDetr" and cfg.MODEL.DETR.NUM_CLASSES == 0
    assert cfg.INPUT.MIN_SIZE_TRAIN[-1] == cfg.INPUT.MIN_SIZE_TEST == 480
    assert all(len(DatasetCatalog.get(name)) == 8 for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    sets = resolve_category_sets(cfg.CRITICAL.SETS, MetadataCatalog.get("mine_train"))
    assert {s.name: s.indices for s in sets} == {"animal": (0, 1), "vehicle": (2,), "pets": (0, 1)}


def test_aquarium(shared_data, tmp_path, monkeypatch):
    """The committed config of the example, on the photographs where they are at hand."""
    aquarium = shared_data("aquarium")
    (tmp_path / "aquarium").symlink_to(aquarium)
    use_tree(monkeypatch, tmp_path)
    cfg = load_config(str(FOLDER.parent / "configs/aquarium/Base-aquarium.yaml"), ["MODEL.DEVICE", "cpu"])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("aquarium_train",), ("aquarium_val",))
    records = {split: DatasetCatalog.get(f"aquarium_{split}") for split in ("train", "val")}
    assert sum(len(split) for split in records.values()) == 638
    metadata = MetadataCatalog.get("aquarium_train")
    sets = resolve_category_sets(cfg.CRITICAL.SETS, metadata)
    members = {s.name: {metadata.thing_classes[i] for i in s.indices} for s in sets}
    assert members == {
        "fish": {"fish", "shark", "stingray"},
        "bird": {"penguin", "puffin"},
        "invertebrate": {"jellyfish", "starfish"},
    }
    for name, count in (("fish", 1960), ("jellyfish", 385), ("starfish", 78)):
        index = metadata.thing_classes.index(name)
        assert count == sum(a["category_id"] == index for r in records["train"] for a in r["annotations"])
