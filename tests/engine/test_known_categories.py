"""What is known of a data set that is not on this machine."""

from fisher_detr.engine import known_categories, read_config
from tests.engine.tiny_coco import make_tiny_coco, write_config

TINY = {"cat": "animal", "dog": "animal", "car": "vehicle"}


def test_of_an_annotation_file(tmp_path):
    make_tiny_coco(tmp_path / "data")
    path = write_config(tmp_path / "a.yaml", tmp_path / "data", tmp_path / "out", f"{tmp_path.name}_a")
    assert known_categories(read_config(str(path))) == TINY


def test_of_sets_that_are_known_by_name():
    found = known_categories(read_config("", ["DATASETS.TEST", ("nowhere", "cityscapes_fine_detection_val")]))
    assert len(found) == 8 and found["car"] == "vehicle"


def test_of_nothing(tmp_path):
    path = write_config(tmp_path / "a.yaml", tmp_path / "gone", tmp_path / "out", f"{tmp_path.name}_b")
    assert known_categories(read_config(str(path))) is None
    assert known_categories(read_config()) is None
