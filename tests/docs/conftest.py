"""What a reader of the pages has before the first command."""

import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.docs.pages import REPOSITORY, Reader


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Reader:
    """In a folder with what a clone has, where configs and data sets can be added."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    return Reader(make_clone(tmp_path / "clone"))


def make_clone(folder: Path) -> Path:
    """Links to the code, copies of what may be added to; without data."""
    folder.mkdir()
    for name in ("tools", "fisher_detr"):
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    (folder / "datasets").mkdir()
    for script in (REPOSITORY / "datasets").glob("*.py"):
        (folder / "datasets" / script.name).symlink_to(script)
    return folder
