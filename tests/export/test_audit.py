"""The audit: its multiply-accumulates against a count in torch, and why a product is of floats."""

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fisher_detr.export import Arithmetic, Audit, AuditRow, feed_of  # noqa: E402
from fisher_detr.export.audit import audit  # noqa: E402
from fisher_detr.quantization import count_macs  # noqa: E402
from tests.export.exported import INTEGER, SKIP, detector, export, inputs, quantized  # noqa: E402


@pytest.mark.parametrize("variant", ["detr", "dab", "refined"])
def test_multiply_accumulates_are_those_of_the_layers(variant, tmp_path):
    model = quantized(variant)
    path, result = export(model, tmp_path, INTEGER)
    found = {}
    for row in result.audit.rows:
        found[row.name] = found.get(row.name, 0) + row.macs
    expected = count_macs(model, lambda: model(inputs(1)), SKIP)
    assert len(expected) > 20
    assert {name: found[name] for name in expected} == expected
    again = audit(path.read_bytes(), feed_of(inputs(1)[0]["image"], padded=False))
    assert again == result.audit


@pytest.mark.parametrize("variant", ["detr", "dab", "two-stage"])
def test_every_product_of_a_float_model_is_known_and_has_a_reason(variant, tmp_path):
    _, result = export(detector(variant), tmp_path)
    assert "?" not in {row.operator for row in result.audit.rows}
    assert {row.arithmetic for row in result.audit.rows} == {Arithmetic.FLOAT}
    reasons = {row.reason.partition(" (")[0]: row for row in result.audit.rows}
    full, activations = "the layer is in full precision", "product of activations that are not quantized"
    assert reasons.keys() == {full, activations}
    assert "products" in reasons[activations].name
    assert result.audit.coverage() == 0.0


def test_the_summary_weighs_by_multiply_accumulates():
    rows = (
        AuditRow("a", "QLinearConv", Arithmetic.INTEGER, "INT8", 300, ""),
        AuditRow("b", "MatMul", Arithmetic.FLOAT, "FLOAT", 100, "why"),
    )
    text = str(Audit(rows))
    assert text.splitlines()[-1] == (
        "2 products: 1 integer (75.0% of multiply-accumulates), 1 float (25.0% of multiply-accumulates)"
    )
    assert "float: why" in text
    assert Audit(()).coverage() == 0.0
