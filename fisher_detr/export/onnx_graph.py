"""Looking things up in an ONNX graph, and running it for its inner tensors."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
import torch

Feed = Mapping[str, np.ndarray]

_QUIET = 3  # errors only: onnxruntime warns of what it leaves out of a graph


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes a tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read a tensor, by the tensor's name."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def shorten_names(graph: onnx.GraphProto) -> None:
    """Give inner tensors short names, in place: their paths, which the nodes keep, are a tenth of a file."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    inner = [name for node in graph.node for name in node.output if name and name not in kept]
    short = {name: f"t{index}" for index, name in enumerate(inner)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]


def session_options() -> onnxruntime.SessionOptions:
    """Options of a session as this package needs them; as many threads within an operator as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _QUIET
    return options


def open_session(
    model: bytes | str, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A session on the processor, from a file's path or its bytes."""
    return onnxruntime.InferenceSession(
        model, options or session_options(), providers=["CPUExecutionProvider"]
    )


def run_for(
    model: onnx.ModelProto, names: Iterable[str], feeds: Iterable[Feed]
) -> Iterator[dict[str, np.ndarray]]:
    """Inner tensors of a model, as its graph says: nothing is fused.

    Args:
        model: the model; unchanged.
        names: of the tensors.
        feeds: inputs of each run.

    Yields:
        the tensors by name, for each feed.
    """
    names = list(dict.fromkeys(names))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = open_session(watched.SerializeToString(), options)
    for feed in feeds:
        yield dict(zip(names, session.run(names, dict(feed)), strict=True))
