"""A model that the driver has trained, for all tests of faults."""

import shutil
from pathlib import Path

import pytest

from tests.tools.driver import Work, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Work:
    """The same for all tests: it takes seconds."""
    return train(tmp_path_factory.mktemp("trained"), "tiny_faults")


@pytest.fixture
def output(trained, tmp_path) -> Path:
    """A copy of the trained model's folder."""
    return Path(shutil.copytree(trained.output, tmp_path / "output"))
