"""The sweep on its small networks, and the file it leaves."""

import json
import sys

from benchmarks import sweep_radius
from fisher_detr.model_zoo.study import read_studies


def test_methods_meet_at_small_radii_in_double_precision(tmp_path, monkeypatch, capsys):
    arguments = ["--models", "network of GELU", "network of ReLU", "--images", "2", "--radii", "0.1", "1e-7"]
    output = tmp_path / "results" / "radius.json"
    monkeypatch.setattr(sys, "argv", ["sweep_radius.py", *arguments, "--output", str(output)])
    sweep_radius.main()
    content = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == content["tables"]
    assert len(content["tables"]) == 2 and len(read_studies(tmp_path / "results")) == 1
    for table in content["tables"]:
        assert table["columns"] == ["radius", *(setting.name for setting in sweep_radius.SETTINGS)]
        assert [row[0] for row in table["rows"]] == ["0.1", "1e-07"]
        smallest = dict(zip(table["columns"], table["rows"][1], strict=True))
        for name in ("full precision, float64", "4 bits, float64"):
            assert smallest[name] == "1.00, 1.00, 1", name
        for name in ("full precision, float32", "4 bits, float32"):
            assert float(smallest[name].split(",")[0]) < 0.8, name  # rounding wins
