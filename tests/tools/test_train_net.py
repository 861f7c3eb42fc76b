"""The driver from end to end on eight small images: train, resume, evaluate, quantize."""

import json
import signal
import subprocess
import time

import pytest
import torch

from fisher_detr.checkpoint import load_tensors
from tests.tools.driver import QUANTIZE, command, contents, detections, environment, same_metrics


def test_training_leaves_checkpoints_config_and_metrics(trained):
    names = {path.name for path in trained.output.iterdir()}
    expected = {"model_0000001.pth", "model_final.pth", "last_checkpoint", "config.yaml", "metrics.json"}
    assert expected <= names
    assert not [name for name in names if name.endswith(".part")]
    assert load_tensors(trained.output / "model_final.pth")["iteration"] == 3
    assert (trained.output / "last_checkpoint").read_text() == "model_final.pth"
    for metric in ("AP50", "APcrit_animal", "AP_vehicle", "APcat_dog"):
        assert metric in trained.printed
    assert "Data set tiny: 8 images" in trained.printed


def test_eval_only_gives_the_metrics_and_overwrites_nothing(trained, output):
    before = contents(output)
    metrics = trained.run("--eval-only", "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", output)
    assert {"AP", "APcrit_animal", "AP_animal", "APcrit_vehicle"} <= metrics["bbox"].keys()
    assert contents(output) == before


def test_eval_only_with_resume_takes_the_last_checkpoint(trained, output):
    named = trained.run("--eval-only", "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", output)
    found = detections(output)
    resumed = trained.run("--eval-only", "--resume", "OUTPUT_DIR", output)
    same_metrics(resumed, named)
    assert detections(output) == found


def test_resume_goes_on_where_training_stopped(trained, output):
    metrics = trained.run("--resume", "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", output)
    final = load_tensors(output / "model_final.pth")
    assert final["iteration"] == 5
    steps = {int(s["step"]) for s in final["trainer"]["_trainer"]["optimizer"]["state"].values()}
    assert steps == {6}, "the optimizer has not gone on"
    assert final["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 6
    assert "AP" in metrics["bbox"]


def test_resume_of_a_finished_training_only_evaluates(trained, output):
    """What a kill between the last checkpoint and the evaluation leaves to do."""
    before = {name: digest for name, digest in contents(output).items() if name.endswith(".pth")}
    assert "AP" in trained.run("--resume", "OUTPUT_DIR", output)["bbox"]
    assert {name: digest for name, digest in contents(output).items() if name.endswith(".pth")} == before


def test_training_starts_from_given_weights(trained, output, tmp_path):
    """A learning rate of 0 and frozen norms: the model stays what it was loaded as."""
    new = tmp_path / "new"
    options = ["SOLVER.BASE_LR", 0, "MODEL.SMALL_RESNET.NORM", "FrozenBN", "SOLVER.MAX_ITER", 1]
    trained.run("MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", new, *options)
    start, end = (load_tensors(folder / "model_final.pth")["model"] for folder in (output, new))
    assert all(torch.equal(end[key], start[key]) for key in end)


def test_kill_and_resume(trained, one_thread, tmp_path):
    """Killed while it saves a checkpoint at each iteration; what is named last is whole.

    What goes on from there becomes what an uninterrupted training would have become.
    """
    output = tmp_path / "killed"
    options = ["SOLVER.MAX_ITER", 100000, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", output]
    told = tmp_path / "stderr"
    with told.open("w") as stderr:
        process = subprocess.Popen(
            command(*trained.arguments(*options)),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + 200
        while len(list(output.glob("model_*.pth"))) < 3:
            assert process.poll() is None, told.read_text()[-3000:]
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = output / (output / "last_checkpoint").read_text()
    iteration = load_tensors(last)["iteration"]
    (output / ".model_0000001.pth.abc.part").write_bytes(b"what a kill during a save leaves")
    for path in output.glob("model_*.pth"):
        load_tensors(path)
    trained.run("--resume", "SOLVER.MAX_ITER", iteration + 3, "OUTPUT_DIR", output)
    resumed = load_tensors(output / "model_final.pth")
    assert resumed["iteration"] == iteration + 2
    assert not list(output.glob(".*.part"))
    trained.run("SOLVER.MAX_ITER", iteration + 3, "OUTPUT_DIR", tmp_path / "whole", "TEST.EVAL_PERIOD", 0)
    whole = load_tensors(tmp_path / "whole" / "model_final.pth")
    assert all(torch.equal(value, whole["model"][key]) for key, value in resumed["model"].items())


@pytest.mark.parametrize("arm", ["uniform", "fisher_critical"])
def test_quantization_and_its_evaluation(trained, output, arm):
    """The saved quantized model gives the very detections that were measured when it was made."""
    options = [*QUANTIZE, "ALLOCATION.ARM", arm, "OUTPUT_DIR", output]
    before = contents(output)
    metrics = trained.run("MODEL.WEIGHTS", output / "model_final.pth", *options)
    measured = detections(output)
    after = contents(output)
    assert {name: after[name] for name in before} == before, "quantizing changed the training's files"
    assert "model_quantized.pth" in after
    allocation = json.loads((output / "allocation.json").read_text())
    assert allocation["size_bytes"] <= allocation["budget_bytes"]
    assert set(allocation["bits"].values()) <= ({4} if arm == "uniform" else {2, 4, 8})
    assert (output / "coverage.json").is_file()
    assert (output / "sensitivity.json").is_file() == (arm != "uniform")
    again = trained.run("--eval-only", "MODEL.WEIGHTS", output / "model_quantized.pth", *options)
    same_metrics(again, metrics)
    assert detections(output) == measured
    assert len(measured) > 0


def test_files_of_an_earlier_run_are_taken(trained, output, tmp_path):
    weights = ["MODEL.WEIGHTS", output / "model_final.pth", *QUANTIZE]
    first = trained.run(*weights, "OUTPUT_DIR", output)
    plan = json.loads((output / "allocation.json").read_text())
    from_table = tmp_path / "from_table"
    table = ["ALLOCATION.SENSITIVITY_FILE", output / "sensitivity.json"]
    same_metrics(trained.run(*weights, *table, "OUTPUT_DIR", from_table), first)
    assert json.loads((from_table / "allocation.json").read_text())["bits"] == plan["bits"]
    assert not (from_table / "sensitivity.json").exists()
    from_plan = tmp_path / "from_plan"
    same_metrics(
        trained.run(
            *weights, "ALLOCATION.ALLOCATION_FILE", output / "allocation.json", "OUTPUT_DIR", from_plan
        ),
        first,
    )
    assert json.loads((from_plan / "allocation.json").read_text())["bits"] == plan["bits"]
