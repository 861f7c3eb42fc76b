"""Exported files against the detectors they were made from: detections, types in the file, mistakes."""

import collections
import copy

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
from onnx import TensorProto  # noqa: E402

from fisher_detr.export import (  # noqa: E402
    ExportMismatch,
    ExportSettings,
    OnnxDetector,
    Precision,
    Tolerance,
    compare_detectors,
    export_onnx,
)
from fisher_detr.export.onnx_graph import session_options  # noqa: E402
from fisher_detr.quantization import ActivationQuantizer, bypassed  # noqa: E402
from tests.export.exported import INTEGER, WEIGHT_ONLY, detector, export, inputs, quantized  # noqa: E402
from tests.modeling.detectors import VARIANTS, make_input  # noqa: E402

CLOSE = Tolerance(box=0.02, score=1e-4, min_score=0.0)


def compare(model, path, batches, tolerance=CLOSE):
    with torch.no_grad():
        return compare_detectors(model, OnnxDetector(path, threads=1), batches, tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_finds_the_same_at_any_size_and_batch(variant, tmp_path):
    model = detector(variant)
    path, _ = export(model, tmp_path)
    batches = [inputs(1), inputs(3), inputs(2, (96, 64)), inputs(1, (75, 101))]
    found = compare(model, path, batches)
    assert found.images == 7
    assert found.detections >= 2 * 7 * 10
    assert found.agreement == 1.0, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batches_find_the_same(variant, tmp_path):
    model = detector(variant)
    path, _ = export(model, tmp_path, padded=True)
    batch = [make_input(64, 96, 0, 0), make_input(53, 77, 0, 1), make_input(90, 41, 0, 2)]
    assert compare(model, path, [batch, batch[:1]]).agreement == 1.0
    # The sizes count: the same images as if padding were a part of them.
    unpadded = OnnxDetector(path, threads=1)
    images = torch.nn.functional.pad(batch[1]["image"].float(), (0, 50, 0, 40))[None]
    outputs = [
        unpadded.session.run(None, {"images": images.numpy(), "sizes": np.array([size])})
        for size in ((53, 77), (93, 127))
    ]
    assert np.abs(outputs[0][1] - outputs[1][1]).max() > 1e-3


def test_a_file_without_padding_takes_images_of_several_sizes_one_by_one(tmp_path):
    model = detector("detr")
    path, _ = export(model, tmp_path)
    batch = [make_input(64, 96, 0, 0), make_input(53, 77, 0, 1)]
    with torch.no_grad():
        alone = [model([image])[0] for image in batch]
    found = OnnxDetector(path, threads=1)(batch)
    for a, b in zip(alone, found, strict=True):
        torch.testing.assert_close(
            a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor, atol=0.02, rtol=0
        )


@pytest.mark.parametrize("variant", ["detr", "refined"])
def test_raw_outputs_are_those_of_the_queries(variant, tmp_path):
    model = detector(variant)
    path, _ = export(model, tmp_path, post_processing=False)
    with torch.no_grad():
        expected = model(inputs(2))
    for a, b in zip(expected, OnnxDetector(path, threads=1)(inputs(2)), strict=True):
        torch.testing.assert_close(b["queries"].logits, a["queries"].logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            b["queries"].pred_boxes.tensor, a["queries"].pred_boxes.tensor, atol=0.02, rtol=0
        )
    assert compare(model, path, [inputs(2)]).agreement == 1.0


@pytest.mark.parametrize("variant", ["detr", "dab", "refined"])
@pytest.mark.parametrize(
    ("bits", "container", "opset"),
    [((8, 6), TensorProto.INT8, 17), ((4, 3), TensorProto.INT4, 21), ((2,), TensorProto.INT2, 25)],
)
def test_integer_products_and_packed_weights(variant, bits, container, opset, tmp_path):
    model = quantized(variant, bits)
    path, result = export(model, tmp_path, INTEGER)
    stored = onnx.load(path)
    levels = [x for x in stored.graph.initializer if x.name.endswith("integer_levels")]
    assert len(levels) == len(result.info["weight_bits"]) > 20
    assert {x.data_type for x in levels} == {container}
    assert result.info["opset"] == stored.opset_import[0].version == opset
    rows = {row.name: row for row in result.audit.rows}
    of_layers = [row for row in rows.values() if row.weight.startswith("INT")]
    assert len(of_layers) >= len(levels)
    assert {str(row.arithmetic) for row in of_layers} == {"integer"}, str(result.audit)
    floats = [row for row in rows.values() if row.arithmetic == "float"]
    assert all(row.reason and row.weight in ("FLOAT", "") for row in floats)
    assert result.audit.coverage() > 0.5


def test_products_stay_of_integers_where_a_session_fixes_the_size(tmp_path):
    path, result = export(quantized("detr"), tmp_path, INTEGER)
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    for name, size in (("batch", 1), ("height", 64), ("width", 96)):
        options.add_free_dimension_override_by_name(name, size)
    OnnxDetector(path, options=options)
    run = collections.Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    expected = collections.Counter(row.operator for row in result.audit.rows if row.arithmetic == "integer")
    assert len(expected) == 2
    assert {name: run[name] for name in expected} == expected


@pytest.mark.parametrize("variant", ["dab", "deformable"])
def test_heads_that_several_layers_share_are_packed_once(variant, tmp_path):
    path, result = export(quantized(variant, (4,), skip=()), tmp_path, INTEGER)
    levels = [x for x in onnx.load(path).graph.initializer if x.name.endswith("integer_levels")]
    assert {x.data_type for x in levels} == {TensorProto.INT4}
    assert sum("bbox_embed" in x.name for x in levels) == 3
    assert {row.weight for row in result.audit.rows} == {"INT4", ""}
    heads = [row for row in result.audit.rows if "embed" in row.name]
    assert len(heads) > 5
    assert {str(row.arithmetic) for row in heads} == {"integer"}, str(result.audit)


def test_packed_weights_take_their_bits(tmp_path):
    sizes = {}
    for bits in (8, 4, 2):
        path, result = export(quantized("detr", (bits,)), tmp_path, INTEGER)
        levels = [x for x in onnx.load(path).graph.initializer if x.name.endswith("integer_levels")]
        sizes[bits] = sum(len(x.raw_data) for x in levels), result.size_bytes
        weights = sum(int(np.prod(x.dims)) for x in levels)
        assert sizes[bits][0] == pytest.approx(weights * bits / 8, abs=len(levels))
    assert sizes[8][1] - sizes[4][1] > 0.3 * sizes[8][0]
    assert sizes[4][1] - sizes[2][1] > 0.2 * sizes[8][0]


def test_attention_products_are_of_integers_where_they_are_quantized(tmp_path):
    _, result = export(quantized("detr", attention_products=True), tmp_path, INTEGER)
    products = [row for row in result.audit.rows if "products" in row.name]
    assert len(products) == 12  # two of each: 2 encoder layers, 2 decoder layers with two attentions
    assert {str(row.arithmetic) for row in products} == {"integer"}, str(result.audit)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("variant", ["detr", "dab"])
def test_weight_only_multiplies_packed_weights_exactly(variant, bits, tmp_path):
    model = quantized(variant, (bits,))
    path, result = export(model, tmp_path, WEIGHT_ONLY)
    with bypassed(model, ActivationQuantizer):
        assert compare(model, path, [inputs(3)]).agreement == 1.0
    operators = collections.Counter(row.operator for row in result.audit.rows)
    linear = [row for row in result.audit.rows if row.weight == f"INT{bits}" and "backbone" not in row.name]
    assert operators["MatMulNBits"] > 20
    assert len(linear) == operators["MatMulNBits"] + 1  # and the projection, which is a convolution
    assert all(row.operator == "MatMulNBits" for row in linear if row.name != "input_proj")
    packed = [x for x in onnx.load(path).graph.initializer if x.name.endswith("packed_levels")]
    assert len(packed) == len({row.name for row in linear}) - 1  # shared weights once


def test_weight_only_needs_no_quantized_activations(tmp_path):
    model = quantized("detr", (4,), activation_bits=0)
    path, _ = export(model, tmp_path, WEIGHT_ONLY)
    assert compare(model, path, [inputs(2)]).agreement == 1.0
    with pytest.raises(ValueError, match=r"QUANT.ACTIVATION.BITS 0.*weight-only"):
        export(model, tmp_path, INTEGER)


def test_reduced_range_keeps_weights_within_7_bits(tmp_path):
    model = quantized("detr", (8, 4))
    before = copy.deepcopy(model.state_dict())
    path, result = export(model, tmp_path, INTEGER, reduce_range=True)
    assert set(result.info["weight_bits"].values()) == {7, 4}
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.endswith("integer_levels") and tensor.data_type == TensorProto.INT8:
            assert 32 < np.abs(onnx.numpy_helper.to_array(tensor)).max() <= 63
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_8_bits_are_7_where_products_saturate(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fisher_detr.export.settings.saturates", lambda: True)
    with caplog.at_level("WARNING", logger="fisher_detr.export.exporting"):
        _, result = export(quantized("detr", (8, 4)), tmp_path, INTEGER)
    assert set(result.info["weight_bits"].values()) == {7, 4} and result.info["reduce_range"]
    assert "This processor has no VNNI" in caplog.text and "exported in 7" in caplog.text
    assert not ExportSettings(INTEGER, reduce_range=False).reduces_range
    assert not ExportSettings(WEIGHT_ONLY).reduces_range and not ExportSettings().reduces_range
    monkeypatch.setattr("fisher_detr.export.settings.saturates", lambda: False)
    assert not ExportSettings(INTEGER).reduces_range


def test_a_file_that_finds_other_things_is_not_written(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the file of before")
    model = quantized("detr")
    strict = Tolerance(box=1e-7, score=1e-9)
    with pytest.raises(ExportMismatch, match=r"differs from PyTorch's: \d+ of \d+ detections"):
        export_onnx(model, path, inputs(), ExportSettings(INTEGER), tolerance=strict)
    assert path.read_bytes() == b"the file of before"
    assert [x.name for x in tmp_path.iterdir()] == ["model.onnx"]


def test_verification_is_part_of_the_export(tmp_path):
    result = export_onnx(detector("dab"), tmp_path / "model.onnx", inputs())
    assert result.comparison.images == 3
    assert result.comparison.agreement == 1.0
    assert result.size_bytes == (tmp_path / "model.onnx").stat().st_size


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (lambda: detector("detr"), {"precision": INTEGER}, "has no quantizers.*quantize it first"),
        (lambda: quantized("detr"), {}, "is quantized and precision is float32.*integer"),
        (
            lambda: quantized("detr", (4,)),
            {"precision": INTEGER, "opset": 20},
            "set 20 has no INT4.*ask for 21",
        ),
        (
            lambda: quantized("detr", (2,)),
            {"precision": INTEGER, "opset": 24},
            "set 24 has no INT2.*ask for 25",
        ),
        (
            lambda: quantized("detr", (8,), activation_bits=4),
            {"precision": INTEGER},
            "4 bits.*ACTIVATION.BITS 8",
        ),
    ],
)
def test_mistakes(model, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        export_onnx(model(), tmp_path / "model.onnx", inputs(), ExportSettings(**settings))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [11, 16, 26])
def test_operator_sets_that_cannot_hold_the_graph(opset):
    with pytest.raises(ValueError, match=f"operator set {opset}: these models need 17 to 25"):
        ExportSettings(Precision.FLOAT, opset=opset)


def test_a_newer_operator_set(tmp_path):
    model = detector("deformable")
    path, _ = export(model, tmp_path, opset=22)
    assert onnx.load(path).opset_import[0].version == 22
    assert compare(model, path, [inputs(2)]).agreement == 1.0


def test_files_of_others(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: check the path"):
        OnnxDetector(tmp_path / "none.onnx")
    path, _ = export(detector("detr"), tmp_path)
    stripped = onnx.load(path)
    del stripped.metadata_props[:]
    onnx.save(stripped, path)
    with pytest.raises(ValueError, match="was not exported by this package"):
        OnnxDetector(path)
