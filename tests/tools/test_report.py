"""The command that makes the report."""

import sys

import pytest
import report

from tests.report.runs import make_runs, make_shared


@pytest.fixture
def run(tmp_path, monkeypatch):
    def make(*words):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, words)])
        report.main()

    return make


def test_page_and_figures(run, tmp_path, capsys):
    runs = make_runs(tmp_path)
    run(runs, "--output", tmp_path / "out" / "r.html", "--figures", tmp_path / "figures", "--title", "Toy")
    printed = capsys.readouterr().out
    assert "not in the report: No traces.json. python tools/measure_traces.py" in printed
    assert f"{tmp_path / 'out' / 'r.html'}, and 4 files" in printed
    assert "<h1>Toy</h1>" in (tmp_path / "out" / "r.html").read_text()
    make_shared(runs)
    run(runs, "--output", tmp_path / "r.html", "--samples", 0)
    assert capsys.readouterr().out == f"{tmp_path / 'r.html'}\n"


def test_mistakes_are_one_line_and_write_nothing(run, tmp_path):
    with pytest.raises(SystemExit, match="report: folder .*nowhere does not exist: name the OUTPUT_DIR"):
        run(tmp_path / "nowhere", "--output", tmp_path / "r.html")
    with pytest.raises(SystemExit, match="report: critical set 'bus' was not evaluated"):
        run(make_runs(tmp_path), "--output", tmp_path / "r.html", "--target", "bus")
    assert not (tmp_path / "r.html").exists()
