"""Exported files on photographs: of the shared data where they are, and which files are taken."""

import sys

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks import deploy_agreement  # noqa: E402
from fisher_detr.model_zoo.study import Table  # noqa: E402


@pytest.mark.parametrize("name", deploy_agreement.MODELS)
def test_files_find_the_same_in_photographs(name, shared_data):
    images = sorted((shared_data("aquarium") / "images").glob("*.jpg"))[:20]
    row = deploy_agreement.compare(name, images)
    (table,) = deploy_agreement.describe([row], "aquarium")["tables"]
    Table(**table)
    found = dict(zip(table["columns"], row, strict=True))
    assert found["images"] == 20 and found["detections"] > 200
    assert found["agree, %"] == 100
    assert found["of them the farthest box (px)"] < 0.5 and found["the farthest score"] < 0.01


def test_too_few_images_are_told(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(sys, "argv", ["deploy_agreement.py", "--images", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"has 1 \.jpg files, expected 20 or more"):
        deploy_agreement.main()
