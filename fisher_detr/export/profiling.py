"""How long onnxruntime takes for every layer of an exported file."""

import collections
import json
import os
import statistics
import tempfile

from fisher_detr.export.audit import audit, plain_name
from fisher_detr.export.onnx_graph import Feed, open_session, session_options

_KERNEL = "_kernel_time"


def profile_layers(model: str | os.PathLike | bytes, feed: Feed, runs: int = 20) -> dict[str, float]:
    """Milliseconds of the products of every layer on this processor.

    What stands between products (norms, softmax, quantizers) belongs to no layer.

    Args:
        model: path or content of a file that `export_onnx` wrote.
        feed: the inputs; their size decides the times.
        runs: after one to warm up.

    Returns:
        medians over the runs by the layer's path; of a layer that runs several times their sum. Products of
        activations are listed by the path of their module.

    Raises:
        ValueError: there are no runs.
    """
    if runs < 1:
        raise ValueError(f"{runs} runs: times need at least one")
    content = model if isinstance(model, bytes) else os.fspath(model)
    times = _node_times(content, feed, runs)
    layers: dict[str, float] = collections.defaultdict(float)
    for row in audit(content, feed).rows:
        layers[row.name] += times.get(row.node, 0.0)
    return dict(layers)


def _node_times(content: bytes | str, feed: Feed, runs: int) -> dict[str, float]:
    """Median milliseconds by the node's name."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = open_session(content, options)
        for _ in range(1 + runs):
            session.run(None, dict(feed))
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    found: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found[plain_name(event["name"].removesuffix(_KERNEL))].append(event["dur"] / 1e3)
    return {name: statistics.median(times[1:]) for name, times in found.items() if len(times) == 1 + runs}
