"""What a reader of the pages has before the first command."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.docs.clones import make_clone
from tests.docs.pages import Reader


@pytest.fixture
def reader(tmp_path, monkeypatch) -> Reader:
    """In a folder with what a clone has, where configs and data sets can be added."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    return Reader(make_clone(tmp_path / "clone"))
