"""A file with the inputs and outputs of an exported detector: one box, from numbers that can be checked."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_onnx(path, info=None, outputs=("boxes", "scores", "classes"), sizes=False):
    """Write a model that finds [2, 4, W / 2, H / 2] of class 1, with the image's mean / 255 as its score.

    Args:
        path: of the file.
        info: JSON of the metadata; None: there are none.
        outputs: names of the three outputs.
        sizes: whether it has a second input, and adds the height that it says to the box' right side.
    """
    boxes, scores, classes = outputs
    constants = {
        "corner": np.array([[[2, 4]]], np.float32),
        "half": np.array([2, 2], np.float32),
        "one": np.array([[1]], np.int64),
        "white": np.array([255], np.float32),
        "axes": np.array([1, 2, 3], np.int64),
        "hw": np.array([3, 2], np.int64),
        "to_corner": np.array([1, 1, 2], np.int64),
        "flat": np.array([1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "hw"], ["width_height"]),
        helper.make_node("Cast", ["width_height"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["size", "half"], ["end_flat"]),
        helper.make_node("Reshape", ["end_flat", "to_corner"], ["end"]),
        helper.make_node("Concat", ["corner", "end"], ["plain" if sizes else boxes], axis=2),
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["part"]),
        helper.make_node("Reshape", ["part", "flat"], [scores]),
        helper.make_node("Identity", ["one"], [classes]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])]
    if sizes:
        inputs.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [1, 2]))
        constants |= {"mask": np.array([[[0, 0, 1, 0]]], np.float32), "first": np.array([0], np.int64)}
        nodes += [
            helper.make_node("Gather", ["sizes", "first"], ["height"], axis=1),
            helper.make_node("Cast", ["height"], ["as_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["mask", "as_float"], ["shift"]),
            helper.make_node("Add", ["plain", "shift"], [boxes]),
        ]
    types = {boxes: TensorProto.FLOAT, scores: TensorProto.FLOAT, classes: TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "detector",
        inputs,
        [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if info is not None:
        helper.set_model_props(model, {"fisher_detr": json.dumps(info)})
    onnx.save(model, str(path))
    return path
