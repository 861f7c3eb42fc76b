"""What the grid of trainings does again, refuses, and makes of its results."""

import argparse
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from benchmarks import qat_grid, qat_measure, qat_runs, qat_tables
from benchmarks.qat_runs import FULL, PTQ, Run
from fisher_detr.evaluation import BootstrapAP


def make_run(tmp_path, arm="qat", keys=(), settings="a", seed=1):
    config, results = "configs/street/detr_small_qat.yaml", tmp_path / "results"
    run = Run(config, arm, seed, keys, settings, tmp_path / "cell", "float.pth", results)
    run.start.parent.mkdir(parents=True, exist_ok=True)
    run.start.write_bytes(b"quantized")
    return run


@pytest.fixture
def processes(monkeypatch):
    """The command lines that are run, which leave what the real ones leave."""
    started = []

    def python(*arguments):
        started.append(arguments)
        if arguments[0] == "tools/train_net.py":
            folder = qat_runs.Path(arguments[arguments.index("OUTPUT_DIR") + 1])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model_final.pth").touch()
        else:
            folder, split = arguments[4:6]
            qat_runs.write_json(qat_runs.Path(folder) / f"result_{split}.json", {"metrics": {"AP": 1.0}})

    monkeypatch.setattr(qat_runs, "python", python)
    return started


def test_only_what_is_missing_is_done(tmp_path, processes):
    run = make_run(tmp_path)
    found = qat_runs.train_and_measure(run, "val")
    assert found["metrics"] == {"AP": 1.0} and found["minutes"] < 1
    assert [arguments[:2] for arguments in processes] == [
        ("tools/train_net.py", "--config-file"),
        ("-m", "benchmarks.qat_measure"),
    ]
    qat_runs.train_and_measure(run, "val")
    assert len(processes) == 2
    qat_runs.train_and_measure(run, "test")
    assert processes[2][5] == "test" and len(processes) == 3


def test_what_another_machine_has_measured_is_taken(tmp_path, processes):
    run = make_run(tmp_path)
    found = qat_runs.train_and_measure(run, "val")
    shutil.rmtree(run.cell)
    assert qat_runs.train_and_measure(run, "val") == found and len(processes) == 2
    with pytest.raises(
        ValueError, match=r"seed1_val.json was measured with other settings: name another --res"
    ):
        qat_runs.train_and_measure(dataclasses.replace(run, settings="b"), "val")


def test_a_training_that_was_cut_off_is_resumed(tmp_path, processes):
    run = make_run(tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "last_checkpoint").touch()
    qat_runs.train_and_measure(run, "val")
    assert "--resume" in processes[0]


@pytest.mark.parametrize("change", ["keys", "settings", "start"])
def test_files_of_other_settings_are_not_taken(tmp_path, processes, change):
    qat_runs.train_and_measure(make_run(tmp_path), "test")
    other = make_run(
        tmp_path, **{change: ("A", "1") if change == "keys" else "b"} if change != "start" else {}
    )
    if change == "start":
        other.start.write_bytes(b"another")
    with pytest.raises(ValueError, match=rf"seed1 has the files of other settings .* in {change}\): name"):
        qat_runs.train_and_measure(other, "val")
    assert len(processes) == 2


def test_a_start_of_other_settings_is_not_taken(tmp_path, processes):
    run = make_run(tmp_path)
    run.start.unlink()
    qat_runs.quantize(run, ("A", "1"), "a")
    run.start.touch()
    qat_runs.quantize(run, ("A", "1"), "a")
    assert len(processes) == 1
    with pytest.raises(ValueError, match=r"start has the files of other settings .* keys, settings\): name"):
        qat_runs.quantize(run, ("A", "2"), "b")


@pytest.mark.parametrize("arm", [FULL, PTQ])
def test_what_is_not_trained_is_measured(tmp_path, processes, monkeypatch, arm):
    monkeypatch.setattr(qat_runs, "ROOT", tmp_path)
    (tmp_path / "float.pth").touch()
    run = make_run(tmp_path, arm)
    qat_runs.train_and_measure(run, "val")
    ((_, _, _, checkpoint, *_),) = processes
    assert checkpoint == str(tmp_path / "float.pth" if arm == FULL else run.start)


def test_minutes_are_those_of_all_attempts(tmp_path, monkeypatch):
    """The second of three was killed while it trained, and wrote its metrics 100 seconds after it began."""
    now = [1000.0]
    monkeypatch.setattr(qat_runs.time, "time", lambda: now[0])
    assert qat_runs.minutes(tmp_path) is None
    with qat_runs.timed(tmp_path):
        now[0] += 60
    with pytest.raises(KeyboardInterrupt), qat_runs.timed(tmp_path):
        (tmp_path / "metrics.json").touch()
        os.utime(tmp_path / "metrics.json", (now[0] + 100, now[0] + 100))
        now[0] += 150
        raise KeyboardInterrupt
    with qat_runs.timed(tmp_path):
        now[0] += 20
    assert qat_runs.minutes(tmp_path) == pytest.approx((60 + 100 + 20) / 60)


def test_a_run_that_fails_leaves_the_others(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, seed=seed) for seed in (1, 2, 3)]

    def one(run, split):
        if run.seed == 2:
            raise RuntimeError("out of memory")
        return {"seed": run.seed}

    monkeypatch.setattr(qat_grid, "train_and_measure", one)
    found, failures = qat_grid.do_runs(runs, argparse.Namespace(jobs=2, split="val"))
    assert found == {"cell": {"qat": {1: {"seed": 1}, 3: {"seed": 3}}}}
    assert failures == ["out of memory"]


def test_arms_to_choose_from():
    cell = qat_grid.CELLS["deformable"]
    args = argparse.Namespace(arms=["qat", "qat_critical"], weights=["0.1"], intervals=["1", "16"])
    arms = qat_grid.arms_of(cell, args)
    assert list(arms) == ["qat", "qat_critical", "qat_critical_0.1"] + [
        f"{arm}_every_{k}" for k in (1, 16) for arm in ("qat_critical", "qat_critical_0.1")
    ]
    of_penalty = ("QUANT.QAT.PENALTY.WEIGHT", "0.1", "QUANT.QAT.PENALTY.INTERVAL", "16")
    assert arms["qat_critical_0.1_every_16"] == of_penalty
    plain = qat_grid.arms_of(cell, argparse.Namespace(arms=None, weights=None, intervals=None))
    assert tuple(plain) == cell.arms


def test_pairs_are_of_the_same_seed():
    runs, others = {1: {"a": 1}, 2: {"a": 2}, 4: {"a": 4}}, {1: {"b": 1}, 2: {"b": 2}, 3: {"b": 3}}
    assert qat_tables.paired(runs, others) == [({"a": 1}, {"b": 1}), ({"a": 2}, {"b": 2})]
    assert len(qat_tables.paired({0: {"a": 0}}, others)) == 3


def test_several_starts_are_told():
    found = {"a": {"qat": {1: {"start": "x"}, 2: {"start": "y"}}}, "b": {"qat": {1: {"start": "x"}}}}
    assert qat_tables.starts(found) == [
        "The runs of a began with 2 quantized models, made by the same settings."
    ]


def test_interval_knows_that_seeds_differ():
    """Two seeds that disagree by 4, on images without noise: it reaches from one to the other."""
    samples = np.zeros(1000)
    gains = [BootstrapAP(point, samples + point, "draw") for point in (-1.0, 3.0)]
    found = qat_tables.over_seeds(gains)
    assert found.point == 1.0 and set(np.unique(found.samples)) == {-1.0, 1.0, 3.0}
    low, high = found.interval()
    assert low == pytest.approx(-1.0, abs=0.2) and high == pytest.approx(3.0, abs=0.2)


def test_samples_are_kept_to_the_digits_that_count():
    estimate = BootstrapAP(51.2, np.array([50.0004, 52.3, np.nan]), "draw")
    found = qat_measure.unpacked(json.loads(json.dumps(qat_measure.packed(estimate))))
    assert (found.point, found.draw) == (51.2, "draw")
    np.testing.assert_allclose(found.samples, estimate.samples, atol=1e-3)


def test_what_the_trace_is_made_of():
    losses, traces = np.arange(20.0), np.arange(20.0) ** 2
    found = qat_measure.describe(losses, traces)
    assert found["loss"] == 9.5 and found["trace"] == pytest.approx(123.5)
    assert found["top_tenth"] == pytest.approx((18**2 + 19**2) / traces.sum())
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert qat_measure.describe(-losses, traces)["rank_correlation"] == pytest.approx(-1.0)


def test_spread_of_a_sample():
    assert qat_tables._spread([1.0, None, 3.0]) == "2.00 ± 1.41"
    assert qat_tables._spread([1.0], "+") == "+1.00" and qat_tables._spread([None]) == ""


def test_every_cell_has_its_config_and_arms():
    for cell in qat_grid.CELLS.values():
        assert (qat_runs.ROOT / cell.config).exists()
        assert set(cell.arms) <= set(qat_grid.ARMS) and len(set(cell.seeds)) == len(cell.seeds)


@pytest.mark.parametrize("name", ["deformable", "detr", "dab"])
def test_committed_results_are_not_measured_again(name):
    """They are of the settings that the grid has today."""
    cell = qat_grid.CELLS[name]
    for arm in cell.arms:
        settings = qat_grid.digest(cell.config, (*qat_grid.TO_NEAREST, *cell.keys, *qat_grid.ARMS[arm]))
        results = sorted((qat_grid.RESULTS / name / arm).glob("*_test.json"))
        assert len(results) == (1 if arm in (FULL, PTQ) else len(cell.seeds))
        assert {json.loads(path.read_text())["settings"] for path in results} == {settings}


def test_digest_is_of_what_was_chosen():
    config = "configs/street/detr_small_qat.yaml"
    plain = qat_grid.digest(config, ())
    assert qat_grid.digest(config, ("MODEL.DEVICE", "cuda", "ALLOCATION.FIXED", "()")) == plain
    assert qat_grid.digest(config, ("SOLVER.MAX_ITER", "7")) != plain
