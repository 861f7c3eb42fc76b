import pytest

from fisher_detr.report import ReportRequest, build_report
from tests.report.runs import make_runs, make_shared


@pytest.fixture
def runs(tmp_path):
    """A folder with three arms."""
    return make_runs(tmp_path)


@pytest.fixture
def page(runs, tmp_path):
    """Their report, which lacks nothing."""
    make_shared(runs)
    path = tmp_path / "report.html"
    assert build_report(ReportRequest([str(runs)], title="A & B"), path) == []
    return path
