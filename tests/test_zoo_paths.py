"""`zoo://` wherever a path is read."""

import subprocess
import sys

import pytest
from detectron2.utils.file_io import PathManager

from fisher_detr import model_zoo
from fisher_detr.checkpoint import load_tensors, local_path
from fisher_detr.engine import load_config, read_config
from fisher_detr.model_zoo import weights_path
from tests.conftest import REPOSITORY

NAME = "street_detr_small"
ADDRESS = f"zoo://{NAME}"


def test_weights_and_config_have_paths():
    assert PathManager.get_local_path(ADDRESS) == local_path(ADDRESS) == str(weights_path(NAME))
    config = REPOSITORY / "configs" / "street" / "detr_small.yaml"
    assert PathManager.get_local_path(f"{ADDRESS}.yaml") == str(config)
    with PathManager.open(ADDRESS, "rb") as file:
        assert file.read() == weights_path(NAME).read_bytes()
    with PathManager.open(f"{ADDRESS}.yaml") as file:
        assert file.read() == config.read_text()


def test_what_exists():
    assert PathManager.exists(ADDRESS) and PathManager.isfile(f"{ADDRESS}.yaml")
    assert not PathManager.exists("zoo://street_detr") and not PathManager.isfile("zoo://detr_r50_coco")


def test_mistakes():
    with pytest.raises(ValueError, match=r"no entry 'street_detr_smal': did you mean street_detr_small"):
        local_path("zoo://street_detr_smal")
    with pytest.raises(ValueError, match="opened with mode 'w': use 'r' or 'rb'"):
        PathManager.open(ADDRESS, "w")
    assert local_path("") == ""


def test_configs_of_the_zoo():
    """Without its ending too: where a config is read, it is the config."""
    expected = read_config(str(REPOSITORY / "configs" / "street" / "detr_small.yaml"))
    assert read_config(ADDRESS) == read_config(f"{ADDRESS}.yaml") == expected
    with pytest.raises(ValueError, match="no entry 'other'"):
        load_config("zoo://other")


def test_tensors_are_read_by_name():
    assert load_tensors(ADDRESS)["model"].keys() == load_tensors(weights_path(NAME))["model"].keys()


def test_the_zoo_is_not_imported_before_it_is_needed():
    code = (
        "import sys, fisher_detr; assert 'fisher_detr.model_zoo' not in sys.modules\n"
        "from detectron2.utils.file_io import PathManager\n"
        f"assert PathManager.isfile('{ADDRESS}')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_whether_there_is_a_file_is_known_without_fetching_it(monkeypatch):
    def refuse(name):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(model_zoo, "weights_path", refuse)
    assert PathManager.isfile(ADDRESS)
