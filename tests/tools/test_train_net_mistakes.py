"""What the driver must refuse: in one line, and with nothing overwritten."""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import train_net
from torch.multiprocessing import ProcessRaisedException

from fisher_detr.checkpoint import load_tensors
from tests.engine.tiny_coco import write_annotations
from tests.tools.driver import QUANTIZE, Work, command, contents, environment


@pytest.fixture
def output(output) -> Path:
    """A folder with weights to start from and no training to go on with."""
    (output / "last_checkpoint").unlink()
    return output


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
        [*QUANTIZE, "CRITICAL.SETS", "('anmal',)", "CRITICAL.TARGET", "bike"],
        ["CRITICAL.SETS", "did you mean 'animal'?", "CRITICAL.TARGET", "unknown critical category 'bike'"],
    ),
    "empty set": ([*QUANTIZE, "CRITICAL.TARGET", "mine=cat+"], ["CRITICAL.TARGET", "has an empty member"]),
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
    "calibration": ([*QUANTIZE, "QUANT.CALIBRATION.NUM_IMAGES", 0], ["NUM_IMAGES is 0, expected 1 or more"]),
    "no calibration set": ([*QUANTIZE, "DATASETS.TRAIN", "()"], ["DATASETS.TRAIN is empty: name the data"]),
    "no such layer": (
        [*QUANTIZE, "QUANT.SKIP_LAYERS", "('clas_embed',)"],
        ["no module 'clas_embed'", "QUANT.SKIP_LAYERS", "class_embed"],
    ),
    "mixed precision": (["SOLVER.AMP.ENABLED", "True"], ["mixed precision needs a GPU"]),
    "feature": (["MODEL.DETR.IN_FEATURE", "res6"], ["MODEL.DETR.IN_FEATURE is 'res6'"]),
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
    found = trained.error(
        *("--eval-only", "MODEL.WEIGHTS", output / "model_quantized.pth", *QUANTIZE, "OUTPUT_DIR", output),
        *("QUANT.ACTIVATION.BITS", 6),
    )
    assert "the state dict has 8 bits, the model 6" in found
    assert "use the config it was made with" in found


def test_training_does_not_start_over_an_earlier_one(trained):
    before = contents(trained.output)
    found = trained.error()
    assert f"OUTPUT_DIR {trained.output} holds a training already: go on with --resume" in found
    assert contents(trained.output) == before


def test_categories_of_another_order(trained, output, tmp_path):
    content = json.loads(json.dumps(trained.annotations))
    for category, name in zip(content["categories"], ["dog", "cat", "car"], strict=True):
        category["name"] = name
    path = write_annotations(tmp_path, content, "swapped.json")
    both = [f"tiny:{trained.data}/annotations.json:{trained.data}", f"swapped:{path}:{trained.data}"]
    options = ["DATASETS.REGISTER", str(tuple(both)), "DATASETS.TEST", "('swapped',)"]
    found = trained.error(*options, "OUTPUT_DIR", output)
    assert "'tiny' and 'swapped' have other categories: class 0 is 'cat' in the first and 'dog'" in found


def test_more_gpus_than_there_are(trained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = trained.error("--num-gpus", 2)
    assert found == "train_net: --num-gpus is 2, this machine has 1: ask for no more than that"


def test_several_processes_end_in_one_line(trained, monkeypatch, capfd):
    """As `launch` starts them, on the CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        train_net,
        "launch",
        lambda function, count, *_, args: torch.multiprocessing.spawn(_one_of, (function, args), count),
    )
    found = trained.error("--num-gpus", 2, "MODEL.DETR.NUM_QUERY", 3)
    assert found.startswith("train_net: config: unknown key MODEL.DETR.NUM_QUERY, did you mean")
    assert "unknown key" not in "".join(capfd.readouterr())


def _one_of(_rank, function, args):
    function(*args)


def test_a_fault_in_one_of_several_processes_keeps_its_trace(trained, monkeypatch):
    def launch(*_, **__):
        text = (
            "\n\n-- Process 1 terminated with the following error:\nTraceback ...\nTypeError: a fault: here\n"
        )
        raise ProcessRaisedException(text, 1, 0)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(train_net, "launch", launch)
    with pytest.raises(ProcessRaisedException, match="TypeError: a fault"):
        train_net.run(argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto"))


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
