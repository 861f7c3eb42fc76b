"""Disks that are full or cannot be written: one line, and what was there before is still there.

What a write itself does is in tests/test_files.py, without a disk of its own.
"""

import shutil

import pytest
import torch

from fisher_detr.checkpoint import load_tensors
from tests.faults import disks
from tests.faults.faulty import one_line
from tests.tools.driver import QUANTIZE, contents

FULL = "(No space left on device): make room there, or name another folder"
READ_ONLY = "(Read-only file system): name a folder that can be written"


@pytest.fixture(autouse=True)
def small_disks():
    disks.need_disks()


def without_config(folder):
    return {name: digest for name, digest in contents(folder).items() if name != "config.yaml"}


def test_training_goes_on_from_the_last_checkpoint_that_had_room(trained, output, tmp_path, one_thread):
    """Two more iterations, whose checkpoint of 290 KB has no room."""
    options = [*trained.arguments("--resume", "SOLVER.MAX_ITER", 6, "OUTPUT_DIR")]
    before = without_config(output)
    ended = disks.run(tmp_path, output, "train_net", *options, "DISK", room=150)
    assert ended.status == 1
    line = one_line("train_net", ended.stderr)
    assert line.endswith(f"/model_0000005.pth {FULL}")
    assert without_config(ended.kept) == before
    trained.run("--resume", "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", ended.kept)
    trained.run("--resume", "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", output)
    found, expected = (load_tensors(x / "model_final.pth")["model"] for x in (ended.kept, output))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


COMMANDS = {
    "training": (["SOLVER.CHECKPOINT_PERIOD", 100], 16),
    "evaluation": (["--eval-only", "MODEL.WEIGHTS", "DISK/model_final.pth"], 20),
    "quantization": ([*QUANTIZE, "MODEL.WEIGHTS", "DISK/model_final.pth"], 60),
    "sensitivity": ([*QUANTIZE, "FISHER.SAVE_EVERY", 1, "MODEL.WEIGHTS", "DISK/model_final.pth"], 100),
}


@pytest.mark.parametrize(
    "case",
    [name if name == "evaluation" else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_nothing_else_is_lost(trained, output, tmp_path, case):
    """The log, scalars, results, a pass that is written down, the plan or the model do not fit."""
    options, room = COMMANDS[case]
    (output / "last_checkpoint").unlink()
    before = without_config(output)
    ended = disks.run(
        tmp_path, output, "train_net", *trained.arguments(*options, "OUTPUT_DIR", "DISK"), room=room
    )
    assert ended.status == 1
    assert FULL in one_line("train_net", ended.stderr)
    after = without_config(ended.kept)
    assert {name: after[name] for name in before} == before
    assert not list(ended.kept.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 4, 8, 12, 16, 20, 24])
def test_not_even_the_log_fits(trained, tmp_path, room):
    """Whatever is cut off, there is one line of the tool; the log's own end is told by another."""
    (tmp_path / "empty").mkdir()
    options = trained.arguments("OUTPUT_DIR", "DISK/new")
    ended = disks.run(tmp_path, tmp_path / "empty", "train_net", *options, room=room)
    assert ended.status == 1
    assert FULL in one_line("train_net", ended.stderr)
    assert ended.stderr.count("the log goes on without it") <= 1


def test_a_disk_that_is_read_only(trained, output, tmp_path):
    ended = disks.run(
        tmp_path, output, "train_net", *trained.arguments("--resume", "OUTPUT_DIR", "DISK"), read_only=True
    )
    assert ended.status == 1
    assert one_line("train_net", ended.stderr).endswith(f"/log.txt {READ_ONLY}")
    assert contents(ended.kept) == contents(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("train_net", ["CONFIG", "--eval-only", "OUTPUT_DIR", "DISK"]),
        ("train_net", ["CONFIG", *QUANTIZE, "OUTPUT_DIR", "DISK"]),
        ("allocate", ["CONFIG", "OUTPUT_DIR", "DISK"]),
        ("allocate", ["CONFIG", "--pareto", "DISK/curve.json", "OUTPUT_DIR", "ELSEWHERE"]),
        (
            "export_onnx",
            ["CONFIG", "--verify-images", "0", "--output", "DISK/x.onnx", "OUTPUT_DIR", "ELSEWHERE"],
        ),
        ("demo", ["DATA/1.png", "--model", "zoo://street_detr_small", "--output", "DISK/drawn"]),
        ("reproduce", ["ptq_coco", "--output", "DISK/paper"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-2],
)
def test_every_tool_on_a_disk_that_is_read_only(trained, output, tmp_path, tool, options):
    words = []
    for word in options:
        words += ["--config-file", trained.config] if word == "CONFIG" else [word]
    words += ["MODEL.WEIGHTS", "DISK/model_final.pth"] if "CONFIG" in options else []
    words = [
        str(w).replace("ELSEWHERE", str(tmp_path / "x")).replace("DATA", str(trained.data)) for w in words
    ]
    ended = disks.run(tmp_path, output, tool, *words, read_only=True)
    assert ended.status == 1
    assert READ_ONLY in one_line(tool, ended.stderr.replace("\r", "\n"))
    assert contents(ended.kept) == contents(output)


def test_the_disk_is_real(trained, output, tmp_path):
    """Without the fault the command comes to its end: it is the disk that the others end by."""
    (output / "last_checkpoint").unlink()
    shutil.rmtree(output / "inference")
    options = ["--eval-only", "MODEL.WEIGHTS", "DISK/model_final.pth", "OUTPUT_DIR", "DISK"]
    ended = disks.run(tmp_path, output, "train_net", *trained.arguments(*options))
    assert ended.status == 0, ended.stderr
    assert list(ended.kept.glob("inference/*/coco_instances_results.json"))
