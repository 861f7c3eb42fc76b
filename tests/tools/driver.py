"""Running tools/train_net.py on eight small images, and looking at what it leaves."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import train_net
from detectron2.engine import default_argument_parser

from fisher_detr.engine import run_training_command
from tests.engine.tiny_coco import make_tiny_coco, write_config

REPOSITORY = Path(__file__).resolve().parents[2]
QUANTIZE = ["QUANT.ENABLED", "True"]


class Work:
    """A trained tiny DETR: its data set, whose name no other one has, its config, its output folder."""

    def __init__(self, root: Path, name: str = "tiny"):
        self.data = root / "data"
        self.annotations = make_tiny_coco(self.data)
        self.output = root / "output"
        self.config = write_config(root / "tiny.yaml", self.data, self.output, name)

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


def train(root: Path, name: str = "tiny") -> Work:
    """Four iterations, by the command itself; in one process two folders need two names of data sets."""
    work = Work(root, name)
    done = subprocess.run(
        command(*work.arguments()), env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    work.printed = done.stdout
    return work


def command(*words) -> list[str]:
    return [sys.executable, str(REPOSITORY / "tools" / "train_net.py"), *map(str, words)]


def environment() -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def detections(folder: Path) -> list[dict]:
    (path,) = folder.glob("inference/*/coco_instances_results.json")
    return json.loads(path.read_text())


def same_metrics(found: dict, expected: dict) -> None:
    assert found["bbox"].keys() == expected["bbox"].keys()
    for name, value in expected["bbox"].items():
        np.testing.assert_equal(found["bbox"][name], value, err_msg=name)


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
