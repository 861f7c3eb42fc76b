"""Accuracy of exported files, on the tiny model: metrics of each, and a plan that its containers allow."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch  # noqa: E402

from benchmarks import deploy_accuracy  # noqa: E402
from fisher_detr.checkpoint import save_weights  # noqa: E402
from fisher_detr.engine import Trainer, load_config  # noqa: E402
from fisher_detr.export import OnnxDetector, Tolerance, exporting, processor  # noqa: E402
from fisher_detr.model_zoo.study import Table  # noqa: E402
from tests.engine.tiny_coco import make_tiny_coco, write_config  # noqa: E402


def test_rows_of_a_model(tmp_path, monkeypatch):
    # A model that was never trained has no score that the comparison of integers would look at.
    monkeypatch.setattr(exporting, "INTEGER_TOLERANCE", Tolerance(box=64, score=1.0, min_score=0.0))
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", "deployed")
    torch.manual_seed(3)
    save_weights(tmp_path, "tiny", Trainer.build_float_model(load_config(str(config))), {})
    (weights,) = tmp_path.glob("tiny*.pth")
    cfg = load_config(str(config), ["MODEL.WEIGHTS", str(weights), "QUANT.ENABLED", True])
    rows = deploy_accuracy.measure(cfg, "tiny", tmp_path)
    (table,) = deploy_accuracy.describe(rows)["tables"]
    Table(**table)
    found = {row[1]: dict(zip(table["columns"], row, strict=True)) for row in rows}
    assert list(found) == ["float32", "W8A8", "W8A8 in 7 bits", "plan of 4 bits, A8"]
    assert found["float32"]["difference"] == pytest.approx(0, abs=1e-6)
    assert found["float32"]["integer, % of multiply-accumulates"] == 0
    for row in found.values():
        assert row["APcrit"] == row["APcrit"] and row["APcrit of the file"] == row["APcrit of the file"]
    assert found["plan of 4 bits, A8"]["weights (MB)"] < found["W8A8"]["weights (MB)"]
    for name, reduced in (("tiny_W8A8", processor.saturates()), ("tiny_W8A8_in_7_bits", True)):
        assert OnnxDetector(tmp_path / f"{name}.onnx").info["reduce_range"] == reduced
    assert found["W8A8"]["integer, % of multiply-accumulates"] > 50
