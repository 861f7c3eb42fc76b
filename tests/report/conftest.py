import pytest

from tests.report.runs import make_runs


@pytest.fixture
def runs(tmp_path):
    """A folder with three arms."""
    return make_runs(tmp_path)
