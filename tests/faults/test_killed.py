"""Killed with SIGKILL on the way: no file is half, the earlier ones are whole, and the next run goes on.

Of a training that is killed at any time see also `test_kill_and_resume` of the driver.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fisher_detr.checkpoint import load_tensors
from fisher_detr.quantization import load_packed, save_packed
from tests.faults import faulty
from tests.quantization.test_packed_file import quantized
from tests.tools.driver import QUANTIZE, contents, detections, environment

EVALUATOR = "fisher_detr.evaluation.critical_evaluator:CriticalCategoryEvaluator.process"
# Each image of the calibration is a pass that is written down.
EVERY_IMAGE = ["FISHER.SAVE_EVERY", 1, "FISHER.BATCH_SIZE", 1, "ALLOCATION.ARM", "fisher_critical"]


def killed(trained, fault, *words):
    """Run the driver until the fault."""
    command = faulty.command("train_net", *fault, "--", *trained.arguments(*words))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


def all_files(folder):
    """What is in every file, those of an evaluation too; logs and scalars are appended to."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.txt", "metrics.json") and "tfevents" not in path.name
    }


def without_leftovers(files):
    return {name: content for name, content in files.items() if not name.endswith(".part")}


@pytest.mark.parametrize(
    "fault",
    [("--at", f"{EVALUATOR}:2"), ("--within", "coco_instances_results.json:300")],
    ids=["between two batches", "while results are written"],
)
def test_evaluation(trained, output, fault):
    options = ["--eval-only", "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", output]
    trained.run(*options)
    before, found = all_files(output), detections(output)
    killed(trained, fault, *options)
    assert without_leftovers(all_files(output)).keys() == before.keys()
    (results,) = output.glob("inference/*/coco_instances_results.json")
    assert before[str(results.relative_to(output))] == results.read_bytes()
    trained.run(*options)
    assert detections(output) == found


@pytest.mark.parametrize(
    "fault",
    [
        ("--at", "fisher_detr.fisher.pass_file:PassFile._write:3"),
        ("--within", "partial_sensitivity.safetensors:2000"),
    ],
    ids=["between two images", "while a pass is written down"],
)
def test_sensitivity(trained, output, tmp_path, one_thread, fault):
    options = ["MODEL.WEIGHTS", output / "model_final.pth", *QUANTIZE, *EVERY_IMAGE]
    before = contents(output)
    killed(trained, fault, *options, "OUTPUT_DIR", output)
    left = {name for name in contents(output) if name not in before}
    assert left and all(Path(name).name.lstrip(".").startswith("partial_") for name in left)
    trained.run(*options, "OUTPUT_DIR", output)
    assert "images are done, from" in (output / "log.txt").read_text()
    trained.run(*options, "OUTPUT_DIR", tmp_path / "whole")
    assert detections(output) == detections(tmp_path / "whole")
    for name in ("sensitivity.json", "allocation.json"):
        assert (output / name).read_text() == (tmp_path / "whole" / name).read_text()
    after = contents(output)
    assert {name: after[name] for name in before} == before
    assert not [name for name in without_leftovers(after) if "partial_" in name]


def test_checkpoint(trained, tmp_path, one_thread):
    """The last checkpoint of a training is half on the disk; the one before it is named and whole."""
    output = tmp_path / "output"
    killed(trained, ("--within", "model_final.pth:100000"), "OUTPUT_DIR", output)
    assert (output / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (output / "model_final.pth").exists()
    (half,) = output.glob(".model_final.pth.*.part")
    assert half.stat().st_size == 100000
    trained.run("--resume", "OUTPUT_DIR", output)
    found, expected = (load_tensors(x / "model_final.pth")["model"] for x in (output, trained.output))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert not half.exists()


PACK = """
from tests.faults.faulty import die_within
from tests.quantization.test_packed_file import quantized
from fisher_detr.quantization import save_packed
die_within("model.safetensors:1000")
save_packed({path!r}, quantized(seed=1).state_dict())
"""


def test_packing(tmp_path):
    path = tmp_path / "model.safetensors"
    save_packed(path, quantized().state_dict(), {"seed": 0})
    before = path.read_bytes()
    code = PACK.format(path=str(path))
    done = subprocess.run([sys.executable, "-c", code], env=environment(), timeout=240)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before and load_packed(path).info == {"seed": 0}
    assert [part.stat().st_size for part in tmp_path.glob(".model.safetensors.*.part")] == [1000]


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 12))
def test_quantization_at_every_write(trained, output, tmp_path, one_thread, count):
    """Whichever file a quantization is about to write, the next one ends as an unkilled one does."""
    options = ["MODEL.WEIGHTS", output / "model_final.pth", *QUANTIZE, *EVERY_IMAGE]
    killed(trained, ("--at", f"fisher_detr.files:os.replace:{count}"), *options, "OUTPUT_DIR", output)
    for path in output.rglob("*.json"):
        if path.name != "metrics.json":
            json.loads(path.read_text())
    trained.run(*options, "OUTPUT_DIR", output)
    trained.run(*options, "OUTPUT_DIR", tmp_path / "whole")
    found, expected = (load_tensors(x / "model_quantized.pth") for x in (output, tmp_path / "whole"))
    assert all(torch.equal(value, expected["model"][key]) for key, value in found["model"].items())
    assert detections(output) == detections(tmp_path / "whole")
