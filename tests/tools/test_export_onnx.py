"""The command that exports, on the tiny trained model: what it prints and writes, and its mistakes."""

import json
import sys

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import export_onnx  # noqa: E402

from fisher_detr.engine import exporting, load_config  # noqa: E402
from fisher_detr.export import OnnxDetector  # noqa: E402
from fisher_detr.report import find_arms  # noqa: E402
from tests.tools.driver import QUANTIZE  # noqa: E402


@pytest.fixture(scope="module")
def quantized(trained, tmp_path_factory):
    """Folder with `model_quantized.pth` of 4 bits."""
    folder = tmp_path_factory.mktemp("quantized")
    words = ["MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", folder]
    trained.run(*QUANTIZE, "ALLOCATION.ARM", "uniform", "ALLOCATION.AVERAGE_BITS", 4.0, *words)
    return folder


def call(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", *map(str, words)])
    export_onnx.main()


def error(monkeypatch, *words) -> str:
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, *words)
    message = stopped.value.code
    assert message.startswith("export_onnx: ")
    assert "\n" not in message
    return message


def test_float32(trained, tmp_path, monkeypatch, capsys):
    path = tmp_path / "model.onnx"
    weights = ["MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", tmp_path]
    call(monkeypatch, *trained.arguments("--output", path, "--verify-images", 3, *weights))
    printed = capsys.readouterr().out
    assert "on 3 images agree within 0.5 px and 0.01 of score" in printed
    assert f"{path.stat().st_size:,} bytes, operator set 17" in printed
    info = OnnxDetector(path).info
    assert info["categories"] == {"cat": "animal", "dog": "animal", "car": "vehicle"}
    assert "NUM_CLASSES" in info["config"] and str(tmp_path) not in info["config"].split("DATASETS")[0]
    assert info["image_format"] == "RGB"
    assert info["precision"] == "float32"


def test_latency_for_the_report(trained, tmp_path, monkeypatch, capsys):
    weights = ["MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", tmp_path]
    path = tmp_path / "image_latency.json"
    words = ["--output", tmp_path / "m.onnx", "--verify-images", 0, "--latency", path]
    call(monkeypatch, *trained.arguments(*words, *weights))
    found = json.loads(path.read_text())
    assert found["milliseconds"] > 0 and found["size"] == [64, 64] and found["runs"] == 20
    assert f"{path}: {found['milliseconds']:.2f} ms for an image" in capsys.readouterr().out
    trained.run("--eval-only", *weights)
    assert find_arms([str(tmp_path)])[0].latency == found["milliseconds"]


def test_audit_as_a_file(trained, quantized, tmp_path, monkeypatch, capsys):
    path = tmp_path / "audit.json"
    weights = [*QUANTIZE, "MODEL.WEIGHTS", quantized / "model_quantized.pth", "OUTPUT_DIR", tmp_path]
    words = ["--output", tmp_path / "m.onnx", "--verify-images", 0, "--audit", path]
    call(monkeypatch, *trained.arguments(*words, *weights))
    printed, found = capsys.readouterr().out, json.loads(path.read_text())
    assert f"{len(found['products'])} products: " in printed
    assert f"integer ({found['coverage']['integer']:.1%} of multiply-accumulates)" in printed
    assert sum(found["coverage"].values()) == pytest.approx(1.0)
    for product in found["products"]:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{product['name']} "))
        assert product["operator"] in line and f"{product['macs']:,}" in line
        assert bool(product["reason"]) == (product["arithmetic"] != "integer")
    assert "torch" in found["environment"]


def test_integers_and_weight_only(trained, quantized, tmp_path, monkeypatch, capsys):
    """A model of four iterations finds nothing that a threshold would keep: not compared here."""
    weights = [*QUANTIZE, "MODEL.WEIGHTS", quantized / "model_quantized.pth", "OUTPUT_DIR", tmp_path]
    for number, flags in enumerate(([], ["--weight-only"], ["--no-reduce-range", "--raw"])):
        path = tmp_path / f"{number}.onnx"
        call(monkeypatch, *trained.arguments("--output", path, "--verify-images", 0, *flags, *weights))
        printed = capsys.readouterr().out
        assert "Not compared with PyTorch." in printed
        assert ("MatMulNBits" in printed) == (flags == ["--weight-only"])
        assert ("QLinearConv" in printed) == (flags != ["--weight-only"])
        assert "operator set 21" in printed
    metrics = exporting.evaluate_onnx(
        load_config(trained.config, [str(word) for word in weights]), tmp_path / "2.onnx"
    )
    assert "APcrit_animal" in metrics["bbox"]


def test_mistakes(trained, quantized, tmp_path, monkeypatch):
    output = ["--output", tmp_path / "model.onnx"]
    final, packed = trained.output / "model_final.pth", quantized / "model_quantized.pth"
    folder = ["OUTPUT_DIR", tmp_path / "log"]

    def message(*words):
        return error(monkeypatch, *trained.arguments(*output, *words, *folder))

    assert "has no quantizers, which the export in integer needs" in message(
        *QUANTIZE, "MODEL.WEIGHTS", final
    )
    assert "has no quantizers, which the export in weight_only" in message(
        "--weight-only", "MODEL.WEIGHTS", final
    )
    assert "is quantized: take the config" in message("MODEL.WEIGHTS", packed)
    assert "operator set 11: these models need 17 to 25" in message("--opset", 11, "MODEL.WEIGHTS", final)
    assert "no INT4 for weights of 4 bits: ask for 21" in message(
        "--opset", 17, *QUANTIZE, "MODEL.WEIGHTS", packed
    )
    assert "none.pth' does not exist: check MODEL.WEIGHTS" in message("MODEL.WEIGHTS", tmp_path / "none.pth")
    assert not (tmp_path / "model.onnx").exists()


def test_without_the_extra_there_is_one_line(trained, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fisher_detr.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fisher_detr.engine.exporting")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", tmp_path]
    message = error(monkeypatch, *trained.arguments("--output", tmp_path / "model.onnx", *words))
    assert "needs onnx and onnxruntime: install the extra" in message
