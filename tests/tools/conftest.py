"""A model that the driver has trained, for all tests of the driver."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools.driver import Work, command, environment


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Work:
    """Four iterations, by the command itself."""
    work = Work(tmp_path_factory.mktemp("trained"))
    done = subprocess.run(
        command(*work.arguments()), env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    work.printed = done.stdout
    return work


@pytest.fixture
def output(trained, tmp_path) -> Path:
    """A copy of the trained model's folder."""
    return Path(shutil.copytree(trained.output, tmp_path / "output"))
