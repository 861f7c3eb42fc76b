"""The driver from end to end on eight small images: train, resume, evaluate, quantize, and bad input."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from detectron2.engine import default_argument_parser

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine import run_training_command
from tests.engine.tiny_coco import make_tiny_coco, write_annotations, write_config

REPOSITORY = Path(__file__).resolve().parents[2]
QUANTIZE = ["QUANT.ENABLED", "True"]


class Work:
    """A trained tiny DETR: its data set, its config, its output folder."""

    def __init__(self, root: Path):
        self.data = root / "data"
        self.annotations = make_tiny_coco(self.data)
        self.output = root / "output"
        self.config = write_config(root / "tiny.yaml", self.data, self.output)

    def arguments(self, *words) -> list[str]:
        return ["--config-file", str(self.config), *map(str, words)]

    def run(self, *words) -> dict:
        """In this process: a new one takes seconds to import torch."""
        return run_training_command(default_argument_parser().parse_args(self.arguments(*words)))

    def error(self, *words) -> str:
        """The one line with which the driver ends."""
        args = default_argument_parser().parse_args(self.arguments(*words))
        with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
            train_net.run(args)
        message = stopped.value.code
        assert isinstance(message, str), "the exit status would be 0, or the error without a word"
        assert message.startswith("train_net: ")
        assert "\n" not in message
        return message


def command(*words) -> list[str]:
    return [sys.executable, str(REPOSITORY / "tools" / "train_net.py"), *map(str, words)]


def environment() -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
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


def detections(folder: Path) -> list[dict]:
    (path,) = folder.glob("inference/*/coco_instances_results.json")
    return json.loads(path.read_text())


def same_metrics(found: dict, expected: dict) -> None:
    assert found["bbox"].keys() == expected["bbox"].keys()
    for name, value in expected["bbox"].items():
        np.testing.assert_equal(found["bbox"][name], value, err_msg=name)


# What works


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


def test_kill_and_resume(trained, tmp_path):
    """Killed while it saves a checkpoint at each iteration; what is named last is whole."""
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
    for path in output.glob("model_*.pth"):
        load_tensors(path)
    trained.run("--resume", "SOLVER.MAX_ITER", iteration + 3, "OUTPUT_DIR", output)
    assert load_tensors(output / "model_final.pth")["iteration"] == iteration + 2


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


# What must not work


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file that a later run could spoil; logs and metrics are appended to."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("log.txt", "metrics.json")
        and not path.name.startswith("events.")
        and "inference" not in path.parts
    }


def annotation_case(trained, folder, change) -> list[str]:
    """Overrides for a data set with changed annotations."""
    content = json.loads(json.dumps(trained.annotations))
    change(content)
    path = write_annotations(folder, content, "bad.json")
    name = f"bad_{folder.name}"
    return ["DATASETS.REGISTER", f"('{name}:{path}:{trained.data}',)", *on(name)]


def on(name: str) -> list[str]:
    return ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"]


def register(name: str, annotations, images) -> list[str]:
    return ["DATASETS.REGISTER", f"('{name}:{annotations}:{images}',)", *on(name)]


BAD_ANNOTATIONS = {
    "box outside": (lambda c: c["annotations"][0].update(bbox=[50, 50, 40, 10]), "reaches outside the image"),
    "empty box": (lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 10]), "is empty"),
    "unknown category": (lambda c: c["annotations"][0].update(category_id=77), "unknown category 77"),
    "no images": (lambda c: c.pop("images"), "no list 'images'"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations(trained, output, tmp_path, case):
    change, message = BAD_ANNOTATIONS[case]
    before = contents(output)
    found = trained.error(*annotation_case(trained, tmp_path, change), "OUTPUT_DIR", output)
    assert message in found
    assert "bad.json" in found
    assert contents(output) == before


def test_missing_and_broken_annotation_file(trained, output, tmp_path):
    before = contents(output)
    gone = register("gone", tmp_path / "gone.json", trained.data)
    assert "annotation file" in (found := trained.error(*gone, "OUTPUT_DIR", output))
    assert "gone.json does not exist" in found
    (tmp_path / "broken.json").write_text('{"images": [')
    broken = register("broken", tmp_path / "broken.json", trained.data)
    assert "broken.json is not valid JSON" in trained.error(*broken, "OUTPUT_DIR", output)
    assert contents(output) == before


@pytest.mark.parametrize(("flags", "workers"), [([], 0), ([], 1), (["--eval-only"], 1)], ids=str)
def test_unreadable_image(trained, output, tmp_path, flags, workers):
    """In a worker the error comes back wrapped in a trace."""
    images = Path(shutil.copytree(trained.data, tmp_path / "images"))
    for path in images.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    name = f"unreadable_{len(flags)}_{workers}"
    options = [*register(name, images / "annotations.json", images), "DATALOADER.NUM_WORKERS", workers]
    before = contents(output)
    weights = ["MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", output]
    found = trained.error(*flags, *options, *weights)
    assert "cannot be read" in found
    assert ".png (image id" in found
    assert {k: v for k, v in contents(output).items() if k != "config.yaml"} == {
        k: v for k, v in before.items() if k != "config.yaml"
    }


BAD_SETTINGS = {
    "unknown keys": (
        ["MODEL.DETR.NUM_QUERY", 3, "NUM_CLASSES", 3],
        ["unknown key MODEL.DETR.NUM_QUERY, did you mean MODEL.DETR.NUM_QUERIES", "unknown key NUM_CLASSES"],
    ),
    "wrong type": (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER is 'many', expected int as in"]),
    "odd": (["SOLVER.MAX_ITER"], ["'SOLVER.MAX_ITER' has no value"]),
    "wrong class count": (["MODEL.DETR.NUM_CLASSES", 5], ["NUM_CLASSES is 5", "'tiny' has 3 categories"]),
    "unknown set": (
        ["CRITICAL.SETS", "('anmal',)", "CRITICAL.TARGET", "bike"],
        ["CRITICAL.SETS", "did you mean 'animal'?", "CRITICAL.TARGET", "unknown critical category 'bike'"],
    ),
    "empty set": (["CRITICAL.TARGET", "mine=cat+"], ["CRITICAL.TARGET", "has an empty member"]),
    "unknown choices": (
        ["ALLOCATION.ARM", "best", "QUANT.WEIGHT.SCALE", "min", "CRITICAL.BOX_LOSS", "none"],
        ["ALLOCATION.ARM is 'best', expected one of uniform,", "SCALE is 'min'", "BOX_LOSS is 'none'"],
    ),
    "unknown data set": (["DATASETS.TRAIN", "('tinny',)"], ["unknown data set 'tinny', did you mean tiny?"]),
    "no data set": (["DATASETS.TRAIN", "()"], ["DATASETS.TRAIN is empty"]),
    "optimizer": (["SOLVER.OPTIMIZER", "ADAM"], ["SOLVER.OPTIMIZER is 'ADAM': expected 'ADAMW' or 'SGD'"]),
    "clipping": (["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value"], ["expected CLIP_TYPE 'full_model'"]),
    "average bits": ([*QUANTIZE, "ALLOCATION.AVERAGE_BITS", 1], ["AVERAGE_BITS is 1, expected 2 to 8"]),
    "widths": ([*QUANTIZE, "ALLOCATION.WIDTHS", "(8, 4)"], ["[8, 4]"]),
    "arm without set": ([*QUANTIZE, "CRITICAL.TARGET", ""], ["fisher_critical needs a critical set"]),
    "calibration": ([*QUANTIZE, "QUANT.CALIBRATION.NUM_IMAGES", 0], ["sample of 0 images"]),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings(trained, output, case):
    options, messages = BAD_SETTINGS[case]
    before = contents(output)
    found = trained.error("OUTPUT_DIR", output, "MODEL.WEIGHTS", output / "model_final.pth", *options)
    for message in messages:
        assert message in found
    assert contents(output) == before


def test_bad_config_file(trained, tmp_path):
    work = Work.__new__(Work)
    for text, message in (
        (None, "does not exist: check the path"),
        ("MODEL: [1", "is not plain YAML"),
        ("MODEL: {DETR: {QUERIES: 3}}", "unknown key MODEL.DETR.QUERIES"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []", "is not plain YAML"),
    ):
        work.config = tmp_path / "bad.yaml"
        if text is not None:
            work.config.write_text(text)
        assert message in work.error()


@pytest.mark.parametrize("flags", [[], ["--eval-only"], QUANTIZE, ["--eval-only", *QUANTIZE]], ids=str)
def test_bad_checkpoints(trained, output, tmp_path, flags):
    flags, options = [f for f in flags if f.startswith("--")], [f for f in flags if not f.startswith("--")]
    whole = (output / "model_final.pth").read_bytes()
    corrupt = tmp_path / "corrupt.pth"
    corrupt.write_bytes(whole[: len(whole) // 2])
    other = tmp_path / "other.pth"
    state = load_tensors(output / "model_final.pth")["model"]
    state["class_embed.bias"] = torch.zeros(7)
    torch.save({"model": state, "bits": {"input_proj": 4}}, other)
    before = contents(output)
    cases = {tmp_path / "gone.pth": "does not exist", corrupt: "cannot read checkpoint"}
    if not (flags and options):
        cases[other] = "class_embed.bias is (7,), the model has (4,)"
    for path, message in cases.items():
        found = trained.error(*flags, "MODEL.WEIGHTS", path, "OUTPUT_DIR", output, *options)
        assert message in found
        assert str(path) in found
    assert contents(output) == before


def test_evaluation_without_weights(trained, tmp_path):
    for options in ([], QUANTIZE):
        assert "MODEL.WEIGHTS" in trained.error("--eval-only", "OUTPUT_DIR", tmp_path, *options)


def test_full_precision_checkpoint_is_no_quantized_one_and_the_reverse(trained, output):
    found = trained.error(
        "--eval-only", "MODEL.WEIGHTS", output / "model_final.pth", *QUANTIZE, "OUTPUT_DIR", output
    )
    assert "is in full precision" in found
    trained.run("MODEL.WEIGHTS", output / "model_final.pth", *QUANTIZE, "OUTPUT_DIR", output)
    found = trained.error(
        "--eval-only", "MODEL.WEIGHTS", output / "model_quantized.pth", "OUTPUT_DIR", output
    )
    assert "was made for another model" in found


def test_bad_plan_files(trained, output, tmp_path):
    weights = ["MODEL.WEIGHTS", output / "model_final.pth", *QUANTIZE, "OUTPUT_DIR", output]
    before = contents(output)
    (tmp_path / "broken.json").write_text("{}")
    for key, what in (("SENSITIVITY_FILE", "SensitivityTable"), ("ALLOCATION_FILE", "BitAllocation")):
        found = trained.error(*weights, f"ALLOCATION.{key}", tmp_path / "broken.json")
        assert f"is no {what}" in found
        found = trained.error(*weights, f"ALLOCATION.{key}", tmp_path / "gone.json")
        assert "gone.json does not exist" in found
    plan = {"bits": {"no.such.layer": 4}, "size_bytes": 1, "budget_bytes": 1, "cost": None, "meta": {}}
    (tmp_path / "other.json").write_text(json.dumps(plan))
    assert "no.such.layer" in trained.error(*weights, "ALLOCATION.ALLOCATION_FILE", tmp_path / "other.json")
    layer = {"name": "no.such.layer", "numel": 8, "num_scales": 1}
    table = {"layers": [layer], "widths": [2, 4, 8], "form": "block"}
    table |= {"terms": {"overall": [[3.0, 2.0, 1.0]]}, "traces": {"overall": [1.0]}}
    table |= {"standard_errors": {}, "linear": {}, "meta": {}}
    (tmp_path / "table.json").write_text(json.dumps(table))
    found = trained.error(*weights, "ALLOCATION.SENSITIVITY_FILE", tmp_path / "table.json")
    assert "the sensitivity table" in found
    assert contents(output) == before


def test_diverged_training_names_loss_and_iteration(trained, output):
    """A learning rate of 1e30: the second iteration has no finite loss."""
    before = contents(output)
    options = ["SOLVER.BASE_LR", "1e30", "SOLVER.CHECKPOINT_PERIOD", 100, "SOLVER.MAX_ITER", 10]
    found = trained.error(*options, "OUTPUT_DIR", output)
    assert "loss became NaN or infinite at iteration 1: " in found
    assert "loss_ce = nan" in found
    after = contents(output)
    assert {k: v for k, v in after.items() if k != "config.yaml"} == {
        k: v for k, v in before.items() if k != "config.yaml"
    }


def test_a_mistake_at_the_command_line_ends_in_one_line_on_stderr(trained, tmp_path):
    options = ["MODEL.DETR.NUM_QUERY", 3, "OUTPUT_DIR", tmp_path / "new"]
    done = subprocess.run(
        command(*trained.arguments(*options)), env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("train_net: config: unknown key MODEL.DETR.NUM_QUERY, did you mean")
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "new").exists()
