"""A file in the place of the folder to write in: every tool says so in one line, whoever runs it."""

import contextlib
import importlib
import io
import sys

import pytest
import torch

from tests.checkpoint.official_models import small_tensors
from tests.tools.driver import QUANTIZE

CASES = {
    "train_net": ["CONFIG", "OUTPUT_DIR", "FILE/x"],
    "train_net, evaluation": ["CONFIG", "--eval-only", "OUTPUT_DIR", "FILE/x"],
    "train_net, quantization": ["CONFIG", *QUANTIZE, "OUTPUT_DIR", "FILE/x"],
    "allocate": ["CONFIG", "OUTPUT_DIR", "FILE/x"],
    "allocate, curve": ["CONFIG", "--pareto", "FILE/curve.json", "--points", "2", "OUTPUT_DIR", "NEW"],
    "export_onnx": ["CONFIG", "--output", "FILE/x.onnx", "--verify-images", "0", "OUTPUT_DIR", "NEW"],
    "convert_checkpoint": ["OFFICIAL", "--output", "FILE/x.pth"],
    "demo": ["DATA/1.png", "--model", "zoo://street_detr_small", "--device", "cpu", "--output", "FILE/x"],
    "reproduce": ["ptq_coco", "--output", "FILE/x"],
}


@pytest.mark.parametrize("case", CASES)
def test_one_line(trained, tmp_path, monkeypatch, case):
    tool = case.partition(",")[0]
    (tmp_path / "file").write_text("kept")
    torch.save({"model": small_tensors("detr_r50")}, tmp_path / "official.pth")
    places = {"FILE": "file", "NEW": "new", "OFFICIAL": "official.pth"}
    words = []
    for word in CASES[case]:
        for name, path in places.items():
            word = word.replace(name, str(tmp_path / path))
        words += ["--config-file", str(trained.config)] if word == "CONFIG" else [word]
    words = [word.replace("DATA", str(trained.data)) for word in words]
    words += ["MODEL.WEIGHTS", str(trained.output / "model_final.pth")] if "CONFIG" in CASES[case] else []
    monkeypatch.setattr(sys, "argv", [tool, *words])
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(tool).main()
    message = str(stopped.value.code)
    assert message.startswith(f"{tool}: ") and "\n" not in message
    assert "Not a directory" in message or "File exists" in message
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "kept"
