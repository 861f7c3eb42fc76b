"""The shipped detectors on street scenes that are drawn for the test: what a user gets."""

import pytest
import torch
from detectron2.modeling import build_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fisher_detr.checkpoint import SafeCheckpointer  # noqa: E402
from fisher_detr.data.street import generate_image  # noqa: E402
from fisher_detr.engine import load_config  # noqa: E402
from fisher_detr.export import ExportSettings, Precision, export_onnx  # noqa: E402
from fisher_detr.model_zoo import weights_path  # noqa: E402
from fisher_detr.quantization import (  # noqa: E402
    calibrate_activations,
    fold_batch_norm,
    freeze_batch_norm,
    quantize_model,
)
from tests.conftest import REPOSITORY  # noqa: E402
from tests.export.exported import SKIP  # noqa: E402

MODELS = ["detr_small", "dab_detr_small", "deformable_detr_small"]


def scenes(count, first=0):
    pictures = (generate_image("val", 7, first + index)[0] for index in range(count))
    return [{"image": torch.from_numpy(picture.transpose(2, 0, 1).copy())} for picture in pictures]


def shipped(name):
    no_data = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "MODEL.DETR.NUM_CLASSES", "21"]
    no_data += ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.WEIGHTS", "", "CRITICAL.SETS", "()"]
    cfg = load_config(REPOSITORY / "configs" / "street" / f"{name}.yaml", no_data)
    model = build_model(cfg)
    SafeCheckpointer(model).load(str(weights_path(f"street_{name}")))
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_float32(name, tmp_path):
    result = export_onnx(shipped(name), tmp_path / "model.onnx", scenes(8)).comparison
    assert result.detections > 8 * 10
    assert result.agreement == 1.0
    assert result.box < 0.01
    assert result.score < 1e-4


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", MODELS)
def test_integers(name, bits, tmp_path):
    model = freeze_batch_norm(shipped(name))
    fold_batch_norm(model)
    quantize_model(model, bits=bits, skip=SKIP)
    seen = scenes(24, first=100)
    calibrate_activations(model, [seen])
    settings = ExportSettings(Precision.INTEGER)
    result = export_onnx(model, tmp_path / "model.onnx", scenes(12), settings, range_images=seen)
    assert result.comparison.detections > 12 * 4
    assert result.audit.coverage() > 0.9
