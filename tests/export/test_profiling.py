"""Times of layers: every quantized layer has one."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fisher_detr.export import feed_of, profile_layers  # noqa: E402
from fisher_detr.quantization import quantizable_layers  # noqa: E402
from tests.export.exported import INTEGER, SKIP, export, inputs, quantized  # noqa: E402


@pytest.mark.parametrize("variant", ["detr", "refined"])
def test_every_layer_has_a_time(variant, tmp_path):
    model = quantized(variant)
    path, _ = export(model, tmp_path, INTEGER)
    found = profile_layers(path, feed_of(inputs(1)[0]["image"], padded=False), runs=5)
    layers = quantizable_layers(model, SKIP)
    assert len(layers) > 20
    assert all(found[name] > 0 for name in layers)


def test_no_runs(tmp_path):
    with pytest.raises(ValueError, match="0 runs: times need at least one"):
        profile_layers(b"", {}, runs=0)
