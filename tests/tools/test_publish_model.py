"""Entries of trained, quantized and quantized-and-trained models; their command prints their numbers."""

import shlex
import sys

import publish_model
import pytest
import torch

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine import load_config
from fisher_detr.model_zoo import catalog, entry, weights_path
from fisher_detr.quantization import load_packed
from fisher_detr.structures import Arm

QAT = ["QUANT.ENABLED", "True", "QUANT.QAT.ENABLED", "True", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"]


@pytest.fixture
def publish(tmp_path, monkeypatch, trained):
    """Publish into a zoo of one's own; returns the entry."""
    monkeypatch.setattr(catalog, "ENTRIES", tmp_path / "entries")
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "entries").mkdir()
    monkeypatch.chdir(trained.config.parent)  # entries name configs by their paths in the repository
    named = ["--name", "tiny", "--model", "Tiny", "--config-file", trained.config.name]

    def run(*words, train_seconds=None):
        options = ["--train-seconds", str(train_seconds)] if train_seconds else []
        opts = [*map(str, words), "DATASETS.TEST", "('tiny',)", "OUTPUT_DIR", str(tmp_path / "published")]
        monkeypatch.setattr(sys, "argv", ["publish_model", *named, *options, *opts])
        publish_model.main()
        return entry("tiny")

    return run


def test_model_that_was_quantized_and_trained_on(publish, trained, tmp_path):
    """It ships its weights, which the command of its entry evaluates."""
    folder = tmp_path / "qat"
    trained.run(*QAT, "MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", folder)
    found = publish(*QAT, "MODEL.WEIGHTS", folder / "model_final.pth", train_seconds=5)
    assert found.training.seconds == 5 and found.quantization.arm is Arm(
        load_config(str(trained.config)).ALLOCATION.ARM
    )
    assert found.size_bytes < 4 * found.parameters
    assert "--eval-only" in found.command and "OUTPUT_DIR" not in found.command
    words = shlex.split(found.command)
    opts = words[words.index("--eval-only") + 1 :]
    at = opts.index("MODEL.WEIGHTS") + 1
    opts[at] = weights_path("tiny")
    metrics = trained.run("--eval-only", *opts, "OUTPUT_DIR", tmp_path / "again")["bbox"]
    assert found.metrics["AP"].value == pytest.approx(metrics["AP"], abs=0.01)
    shipped, made = (load_tensors(str(path))["model"] for path in (opts[at], folder / "model_final.pth"))
    assert shipped.keys() == made.keys()
    rounded = {f"{layer}.weight" for layer in load_packed(opts[at]).bits}  # the others as they were trained
    assert all(torch.equal(shipped[name], made[name]) for name in made.keys() - rounded)


def test_model_that_is_quantized_by_its_command(publish, trained):
    weights = trained.output / "model_final.pth"
    found = publish("QUANT.ENABLED", "True", "ALLOCATION.ARM", "uniform", "MODEL.WEIGHTS", weights)
    assert found.quantization.arm is Arm.UNIFORM and found.training is None and found.file is None
    assert found.size_bytes < 4 * found.parameters


def test_widths_that_are_not_those_of_the_config(publish, trained, tmp_path):
    folder = tmp_path / "three"
    words = [*QAT[:2], "MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", folder]
    trained.run(*words, "ALLOCATION.AVERAGE_BITS", "3")
    message = (
        r"are (2\.9|3\.0)\d bits wide on average, ALLOCATION.AVERAGE_BITS is 4: name the width they have"
    )
    with pytest.raises(SystemExit, match=message):
        publish(*QAT, "MODEL.WEIGHTS", folder / "model_quantized.pth", train_seconds=5)


def test_seconds_of_a_training_that_was_none(publish, trained):
    weights = trained.output / "model_final.pth"
    for words, seconds in ((["QUANT.ENABLED", "True"], 5), ([], None), (QAT, None)):
        with pytest.raises(SystemExit, match="give --train-seconds for a trained model, and only for that"):
            publish(*words, "MODEL.WEIGHTS", weights, train_seconds=seconds)
