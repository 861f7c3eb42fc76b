"""An installed package needs no clone: its wheel has the configs and weights that the model zoo names."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "street_detr_small_fisher_critical_person_4bit"
USE = f"""
import numpy as np
import fisher_detr
from fisher_detr import model_zoo
from fisher_detr.predict import Predictor

assert fisher_detr.__file__.startswith({{folder!r}}), fisher_detr.__file__
configured = [name for name in model_zoo.list() if model_zoo.entry(name).config]
assert all(model_zoo.config_path(name).is_file() for name in configured)
found = Predictor("zoo://{NAME}")(np.zeros((160, 256, 3), np.uint8))
print(sorted(found.get_fields()))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The content of the wheel; built from a copy, since setuptools leaves its own beside the sources."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("fisher_detr", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(REPOSITORY / name, source)
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", wheels, source]
    done = subprocess.run([sys.executable, "-m", *build], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheels / "unpacked")
    return wheels / "unpacked"


def test_the_model_zoo_of_an_installed_package(unpacked, tmp_path):
    code = USE.replace("{folder!r}", repr(str(unpacked)))
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['pred_boxes', 'pred_classes', 'scores']"
