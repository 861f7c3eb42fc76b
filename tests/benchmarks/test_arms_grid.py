"""The study end to end on a few images: named sets, a set without objects, and the file it leaves."""

import json
import sys

import pytest
import torch

from benchmarks import arms_grid
from fisher_detr.engine import Trainer, load_config
from fisher_detr.model_zoo.study import read_studies
from tests.engine.tiny_coco import make_tiny_coco, write_annotations, write_config


@pytest.fixture
def arguments(tmp_path):
    """A study whose critical sets are not super-categories; one of them does not occur in the test split."""
    content = make_tiny_coco(tmp_path / "data")
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 9]
    write_annotations(tmp_path / "data", content, "test.json")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", name="tiny_bench")
    cfg = load_config(str(config))
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    sets = [
        f"tiny_bench:{tmp_path}/data/annotations.json:{tmp_path}/data",
        f"tiny_bench_test:{tmp_path}/data/test.json:{tmp_path}/data",
    ]
    return ["--config-file", str(config), "--widths", "4", "--ablation-widths", "4", "--resamples", "20"] + [
        *("--output", str(tmp_path / "results" / "study.json")),
        *("MODEL.WEIGHTS", str(tmp_path / "weights.pth"), "DATASETS.REGISTER", str(tuple(sets))),
        *("DATASETS.TEST", "('tiny_bench_test',)", "CRITICAL.SETS", "('pets=cat+dog','animal=cat','car')"),
    ]


def test_the_study_is_written_and_can_be_shown(arguments, tmp_path, monkeypatch, capsys):
    # Part of it first, as by a process beside others: the whole takes it over.
    part = ["--arms", "fisher_critical", "--targets", "pets"]
    monkeypatch.setattr(sys, "argv", ["arms_grid.py", *part, *arguments])
    arms_grid.main()
    kept = {path.stem for path in (tmp_path / "output" / "results").iterdir()}
    assert kept == {"full_precision", "nearest_4", "fisher_critical_pets_4", "scales_pets_4"}
    monkeypatch.setattr(sys, "argv", ["arms_grid.py", "--targets", "pets", "birds", *arguments])
    with pytest.raises(SystemExit):
        arms_grid.main()
    assert "--targets birds: expected some of pets, animal, car" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["arms_grid.py", *arguments])
    arms_grid.main()
    content = json.loads((tmp_path / "results" / "study.json").read_text())
    arms, gains, targets = content["tables"]
    assert [row[0] for row in arms["rows"]] == [
        "full precision",
        "uniform_nearest",
        "uniform",
        "hawq",
        "fisher_overall",
        "uniform, critical scales",
        "reweighted",
        "fisher_critical",
    ]
    names = [row[0] for row in gains["rows"]]
    mark = " (hit hardest)"
    assert [name.removesuffix(mark) for name in names] == ["pets", "animal", "car", "mean"]
    lost = [row[1] - row[2] for row in gains["rows"][:2]]  # the third has no objects
    (marked,) = [index for index, name in enumerate(names) if name.endswith(mark)]
    assert lost[marked] == max(lost)
    assert gains["rows"][2][1] == "none"
    # A set is aimed at as it was named, not as a super-category of its name.
    assert [row[0] for row in targets["rows"]][4:] == [
        f"{arm}: {name}" for arm in ("reweighted", "critical") for name in ("pets", "animal", "car")
    ]
    assert gains["columns"][2:] == [
        *("uniform_nearest", "uniform", "hawq", "overall", "reweighted", "critical"),
        *(f"gain over {arm}" for arm in ("uniform_nearest", "uniform", "hawq", "overall", "reweighted")),
    ]
    assert len(read_studies(tmp_path / "results")) == 1

    def again(*_):
        raise AssertionError("quantized again")

    monkeypatch.setattr(arms_grid, "_quantizer", again)
    arms_grid.main()
    assert json.loads((tmp_path / "results" / "study.json").read_text())["tables"] == content["tables"]
