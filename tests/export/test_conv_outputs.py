"""Where quantizers are inserted behind convolutions, on graphs that are written by hand."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fisher_detr.export.audit import audit  # noqa: E402
from fisher_detr.export.conv_outputs import quantize_conv_outputs  # noqa: E402
from fisher_detr.export.onnx_graph import open_session  # noqa: E402

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)


def convolution(behind, outputs=("y",)) -> onnx.ModelProto:
    """A quantized convolution of `x` and the nodes behind its output `c`."""
    constants = {"w": LEVELS, "sw": np.full(4, 0.01, np.float32), "s": np.float32(1 / 255), "z": np.uint8(0)}
    constants |= {"s2": np.float32(0.05), "z2": np.uint8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        *behind,
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed():
    return {"x": RNG.random((1, 4, 8, 8), dtype=np.float32)}


def run(model, inputs):
    return open_session(model.SerializeToString()).run(None, inputs)


RELU = helper.make_node("Relu", ["c"], ["r"])
SUM = helper.make_node("Add", ["r", "x"], ["y"])
QUANTIZED = [
    helper.make_node("QuantizeLinear", ["r", "s2", "z2"], ["rq"]),
    helper.make_node("DequantizeLinear", ["rq", "s2", "z2"], ["y"]),
]


def test_behind_a_sum_the_range_is_that_of_the_values_and_the_product_of_integers():
    model, inputs = convolution([RELU, SUM]), feed()
    before = run(model, inputs)[0]
    assert audit(model.SerializeToString(), inputs).coverage() == 0.0
    assert quantize_conv_outputs(model, [inputs]) == 1
    onnx.checker.check_model(model)
    assert audit(model.SerializeToString(), inputs).coverage() == 1.0
    step = (before - inputs["x"]).max() / 255  # Relu: from 0 to the greatest
    assert 0 < np.abs(run(model, inputs)[0] - before).max() <= 0.51 * step


def test_where_the_one_reader_is_a_quantizer_nothing_is_rounded_in_addition():
    model, inputs = convolution([RELU, *QUANTIZED]), feed()
    count = len(model.graph.node)
    assert quantize_conv_outputs(model, [inputs]) == 0
    assert len(model.graph.node) == count
    assert audit(model.SerializeToString(), inputs).coverage() == 1.0


def test_several_readers_share_the_rounding_of_the_quantized_one():
    """Its input, quantized twice by the same scale, stays what it was."""
    model, inputs = convolution([RELU, *QUANTIZED, helper.make_node("Neg", ["r"], ["n"])], ("y", "n")), feed()
    before = run(model, inputs)
    assert quantize_conv_outputs(model, [inputs]) == 1
    quantized, other = run(model, inputs)
    np.testing.assert_array_equal(quantized, before[0])
    np.testing.assert_array_equal(-other, before[0])


def test_the_greatest_of_values_is_quantized_as_they_are():
    pool = helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2])
    behind = [
        RELU,
        pool,
        *(
            helper.make_node(n.op_type, ["p" if x == "r" else x for x in n.input], n.output)
            for n in QUANTIZED
        ),
    ]
    model, inputs = convolution(behind), feed()
    before = run(model, inputs)[0]
    assert quantize_conv_outputs(model, [inputs]) == 1
    np.testing.assert_array_equal(run(model, inputs)[0], before)


def test_a_float_convolution_stays():
    model = convolution([RELU, SUM])
    del model.graph.node[:2]
    model.graph.node[1].input[0] = "x"
    assert quantize_conv_outputs(model, [feed()]) == 0
