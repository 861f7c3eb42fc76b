"""A model that the driver has trained, for all tests of the driver."""

import shutil
from pathlib import Path

import make_model_zoo
import publish_model
import pytest

from fisher_detr.model_zoo import catalog, entry
from tests.tools.driver import Work, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Work:
    """The same for all tests: it takes seconds."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def output(trained, tmp_path) -> Path:
    """A copy of the trained model's folder."""
    return Path(shutil.copytree(trained.output, tmp_path / "output"))


@pytest.fixture
def zoo(tmp_path, monkeypatch, trained):
    """A zoo of one's own, beside the config, which stands for the repository."""
    monkeypatch.setattr(catalog, "ENTRIES", tmp_path / "entries")
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(catalog, "REPOSITORY", trained.config.parent)
    monkeypatch.setattr(make_model_zoo, "PAGE", tmp_path / "MODEL_ZOO.md")
    (tmp_path / "entries").mkdir()
    monkeypatch.chdir(trained.config.parent)  # entries name configs by their paths in the repository
    return tmp_path


@pytest.fixture
def publish(zoo, trained):
    """Publish a folder as `tiny`; returns the entry."""
    named = ["--name", "tiny", "--model", "Tiny", "--config-file", trained.config.name]

    def run(folder, *words):
        publish_model.main([str(folder), *named, *map(str, words)])
        return entry("tiny")

    return run
