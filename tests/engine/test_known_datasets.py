"""Data sets by their names alone: trained and evaluated on small trees in the official layouts."""

import argparse
import math

import pytest

from fisher_detr.data.cityscapes import prepare_cityscapes
from fisher_detr.data.coco_panoptic import prepare_coco_panoptic
from fisher_detr.engine import load_config, run_training_command
from tests.data.layouts import use_tree, write_cityscapes_tree, write_coco_panoptic_tree, write_coco_tree
from tests.engine.tiny_coco import write_config

SIDES = ["INPUT.MIN_SIZE_TRAIN", "(48, 64)", "INPUT.MAX_SIZE_TRAIN", "96", "INPUT.MAX_SIZE_TEST", "96"]
SHORT = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "TEST.EVAL_PERIOD", "0", "CRITICAL.TARGET", ""]
# Names of the two splits, categories, critical sets.
CASES = {
    "coco": ("coco_2017_train", "coco_2017_val", 80, ("supercategories", "person")),
    "coco_panoptic": (
        "coco_2017_train_panoptic_detection",
        "coco_2017_val_panoptic_detection",
        133,
        ("things", "stuff", "supercategories"),
    ),
    "cityscapes": (
        "cityscapes_fine_detection_train",
        "cityscapes_fine_detection_val",
        8,
        ("supercategories", "two=person+rider"),
    ),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_coco_panoptic_tree(root)
    write_coco_tree(root)
    write_cityscapes_tree(root)
    prepare_coco_panoptic(root)
    prepare_cityscapes(root, subset=True)
    return root


@pytest.mark.parametrize("case", CASES)
def test_trained_and_evaluated_by_name(case, tree, tmp_path, monkeypatch):
    use_tree(monkeypatch, tree)
    train, val, categories, sets = CASES[case]
    config = write_config(tmp_path / "tiny.yaml", tmp_path, tmp_path / "output")
    names = ["DATASETS.REGISTER", "()", "DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{val}',)"]
    opts = [*names, *SIDES, *SHORT, "CRITICAL.SETS", str(sets)]
    args = argparse.Namespace(config_file=str(config), opts=opts, eval_only=False, resume=False)
    results = run_training_command(args)["bbox"]
    assert sum(name.startswith("APcat_") for name in results) == categories
    expected = {"coco": 12, "coco_panoptic": 29, "cityscapes": 3}[case]
    assert sum(name.startswith("APcrit_") for name in results) == expected
    assert 0 <= results["AP"] <= 100 and not math.isnan(results["AP"])


def test_missing_files_are_told_before_anything_is_written(tmp_path, monkeypatch):
    use_tree(monkeypatch, tmp_path)
    config = write_config(tmp_path / "tiny.yaml", tmp_path, tmp_path / "output")
    for _, val, _, _ in CASES.values():
        names = [
            "DATASETS.REGISTER",
            (),
            "DATASETS.TRAIN",
            (),
            "DATASETS.TEST",
            (val,),
            "CRITICAL.TARGET",
            "",
        ]
        with pytest.raises(FileNotFoundError, match=f"{val}.*(DETECTRON2_DATASETS|--check)") as error:
            load_config(str(config), names)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "output").exists()
