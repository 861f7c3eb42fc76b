"""What datasets/README.md says works as it says."""

import re
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.critical import resolve_category_sets
from fisher_detr.engine import load_config
from tests.data.layouts import use_tree

README = (Path(__file__).resolve().parents[2] / "datasets/README.md").read_text()
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


def test_aquarium(shared_data, tmp_path, monkeypatch):
    """The config of the example, on the photographs where they are at hand."""
    aquarium = shared_data("aquarium")
    (tmp_path / "aquarium").symlink_to(aquarium)
    use_tree(monkeypatch, tmp_path)
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "aquarium.yaml").write_text(block)
    cfg = load_config(str(tmp_path / "aquarium.yaml"), ["MODEL.DEVICE", "cpu"])
    assert yaml.safe_load(block)["INPUT"]["MIN_SIZE_TEST"] == cfg.INPUT.MIN_SIZE_TEST
    records = {split: DatasetCatalog.get(f"aquarium_{split}") for split in ("train", "val")}
    assert sum(len(split) for split in records.values()) == 638
    metadata = MetadataCatalog.get("aquarium_train")
    sets = resolve_category_sets(cfg.CRITICAL.SETS, metadata)
    members = {s.name: {metadata.thing_classes[i] for i in s.indices} for s in sets}
    assert members == {
        "fish": {"fish", "shark", "stingray"},
        "bird": {"penguin", "puffin"},
        "invertebrate": {"jellyfish", "starfish"},
        "shark": {"shark"},
    }
    for name, count in (("fish", 1960), ("jellyfish", 385), ("starfish", 78)):
        index = metadata.thing_classes.index(name)
        assert count == sum(a["category_id"] == index for r in records["train"] for a in r["annotations"])
