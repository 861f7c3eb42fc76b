"""The quickstart: its table and picture from stored results, and the whole command."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import quickstart

from fisher_detr.engine import ArmResult, load_config, read_config
from fisher_detr.files import write_json
from fisher_detr.model_zoo import read_studies
from fisher_detr.structures import NEAREST, Arm, BitAllocation
from tests.engine.tiny_coco import make_tiny_coco, write_config

ROOT = Path(__file__).resolve().parents[2]


def record(content, data):
    """What the evaluator leaves."""
    return {
        "dataset": "tiny",
        "annotations": str(data / "annotations.json"),
        "image_root": str(data),
        "num_images": len(content["images"]),
        "categories": [{"metric": "", "objects": 1, **category} for category in content["categories"]],
        "sets": {"animal": [2, 5]},
        "metrics": {},
    }


@pytest.fixture
def measured(tmp_path):
    """A config and the results of three arms, whose detections are the objects; uniform has found nothing."""
    content = make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "t.yaml", tmp_path / "data", tmp_path / "output", name=tmp_path.name)
    cfg = load_config(str(config))
    detections = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in content["annotations"]
    ]
    results = []
    arms = {"full_precision": detections, NEAREST: [], str(Arm.FISHER_CRITICAL): detections}
    for name, found in arms.items():
        folder = tmp_path / name
        write_json(folder / "coco_instances_results.json", found)
        write_json(folder / "evaluation.json", record(content, tmp_path / "data"))
        write_json(folder / "coverage.json", {"quantized_fraction": float(name != "full_precision")})
        plan = BitAllocation({"a": 4}, 100, 100) if name != "full_precision" else None
        metrics = {"AP": 41.25, "APcrit_animal": 30.0, "APl": float("nan")}
        results.append(ArmResult(name, metrics, 1234567, 2.0, str(folder), plan))
    return cfg, results


def test_table_has_full_precision_first(measured):
    lines = quickstart.table(*measured).splitlines()
    assert lines[0].split() == ["arm", "AP", "APcrit_animal", "bytes", "seconds"]
    assert lines[2].split() == ["full_precision", "41.2", "30.0", "1,234,567", "2"]
    assert [line.split()[0] for line in lines[3:]] == ["uniform_nearest", "fisher_critical"]


def test_summary_is_json(measured):
    content = json.loads(json.dumps(quickstart.summary(*measured), allow_nan=False))
    assert content["critical_set"] == "animal"
    assert content["arms"][0]["metrics"] == {"AP": 41.25, "APcrit_animal": 30.0, "APl": None}
    assert content["arms"][1]["bits"] == {"a": 4}


def test_the_table_is_a_study(measured, tmp_path):
    write_json(tmp_path / "found.json", quickstart.study(*measured))
    (found,) = read_studies(tmp_path)
    assert found.command.startswith("python tools/quickstart.py ") and not found.is_benchmark
    assert found.tables[0].rows[0] == ["full_precision", 41.25, 30.0, 1234567, 2.0]
    empty = dataclasses.replace(measured[1][0], metrics={"AP": 1.0, "APcrit_animal": float("nan")})
    assert quickstart.study(measured[0], [empty])["tables"][0]["rows"][0][2] is None


def test_picture_shows_what_the_evaluator_has_stored(measured, tmp_path):
    cfg, results = measured
    runs = [f"{result.name}={result.folder}" for result in results]
    quickstart.draw_detections(cfg, runs, tmp_path / "picture.png")
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture is not None
    # The outer columns are of the same detections, the middle one of none. Titles stand above row 40.
    width = picture.shape[1] // 3
    first, last = picture[40:, :512], picture[40:, -512:]
    middle = picture[40:, width + 4 : width + 516]
    assert abs(first.astype(int) - middle).mean() > 1
    assert (first == last).all()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "model", ["detr", *(pytest.param(x, marks=pytest.mark.slow) for x in ("deformable", "dab"))]
)
def test_the_command(model, tmp_path):
    """All of it, with as few images as can be calibrated and evaluated on."""
    few = ["--num-train", "12", "--num-test", "6", "--num-calibration", "2", "--data", tmp_path / "street"]
    few += ["--qat", "--qat-iterations", "2"]
    command = [sys.executable, ROOT / "tools" / "quickstart.py", "--model", model, "--output", tmp_path, *few]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "fisher_critical" in done.stdout
    assert f"  {tmp_path / 'report.html'}: what quantization did" in done.stdout
    arms = json.loads((tmp_path / "summary.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == [
        *("full_precision", "uniform_nearest", "uniform", "fisher_overall", "fisher_critical"),
        "uniform, QAT",
    ]
    assert all(arm["metrics"]["AP"] > 1 for arm in arms), "the shipped checkpoint was not used"
    assert max(arm["bytes"] for arm in arms[1:]) == arms[1]["bytes"]
    assert (tmp_path / "detections.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert all(f"<th scope=row>{arm['name']}</th>" in page for arm in arms)
    assert page.count("data-chart=") == 2 and "No arm has" not in page  # categories and layers
    assert f"--config-file {tmp_path}/config.yaml" in page
    assert read_config(str(tmp_path / "config.yaml")).ALLOCATION.AVERAGE_BITS == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["detr", "deformable", "dab"])
def test_readme_shows_what_the_command_gives(model, tmp_path):
    """At full size, without the training; processors may add in orders of their own."""
    command = [sys.executable, ROOT / "tools" / "quickstart.py", "--model", model, "--output", tmp_path]
    command += ["--results", tmp_path / "results.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,), (shown,) = (
        json.loads(path.read_text())["tables"]
        for path in (tmp_path / "results.json", ROOT / f"benchmarks/results/quickstart_{model}.json")
    )
    assert found["columns"] == shown["columns"] and len(found["rows"]) == 5
    for (arm, *numbers), expected in zip(found["rows"], shown["rows"], strict=False):  # QAT is the last
        assert arm == expected[0]
        assert numbers[:2] == pytest.approx(expected[1:3], abs=0.5)  # AP and APcrit
        assert numbers[2] == expected[3]  # bytes


def test_the_folder_is_no_config_key(tmp_path, monkeypatch):
    """It is emptied before a training: it has to be the one that was named for that."""
    words = ["quickstart.py", "--data", str(tmp_path / "street"), "--num-train", "2", "--num-test", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "OUTPUT_DIR", str(tmp_path)])
    monkeypatch.setattr(quickstart, "draw_street", lambda *_: None)
    with pytest.raises(SystemExit, match="OUTPUT_DIR is among the config keys: name the folder by --output"):
        quickstart.main()
