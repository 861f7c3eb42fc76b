"""The deployment benchmark measures files that it has written, and its table is made of what was measured."""

import argparse

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks import bench_deploy  # noqa: E402
from fisher_detr.model_zoo.study import Table  # noqa: E402
from fisher_detr.quantization import layer_infos  # noqa: E402

W4 = "onnxruntime, W4A8"


@pytest.fixture
def arguments(tmp_path):
    return argparse.Namespace(size=64, batch=1, rounds=1, steps=2, device="cpu", folder=tmp_path / "files")


def test_a_file_is_written_and_measured(arguments):
    """A W4A8 file of DETR is an eighth of its float tensors, but for what stays in full precision."""
    bench_deploy.write("DETR", W4, arguments)
    found = bench_deploy.measure("DETR", W4, arguments)
    assert len(found["seconds"]) == 2
    assert found["file_bytes"] == bench_deploy.file_of("DETR", W4, arguments).stat().st_size
    plain = bench_deploy.measure("DETR", bench_deploy.TORCH, arguments)
    assert 1 / 8 < found["file_bytes"] / plain["file_bytes"] < 0.15
    assert plain["peak_bytes"] > plain["file_bytes"]


def test_a_plan_is_mixed_and_no_larger_than_4_bits_everywhere(arguments):
    net = bench_deploy.build("DETR", arguments)
    widths = bench_deploy.plan(net)
    assert len(set(widths.bits.values())) > 1, "a mixed plan"
    assert set(widths.bits.values()) <= set(bench_deploy.CANDIDATES)
    layers = layer_infos(net, bench_deploy.HEADS)
    assert widths.size_bytes <= sum(layer.size_bytes(4) for layer in layers)
    bench_deploy.write("DETR", bench_deploy.PLAN, arguments)
    info = bench_deploy.OnnxDetector(bench_deploy.file_of("DETR", bench_deploy.PLAN, arguments)).info
    assert set(info["weight_bits"].values()) == set(widths.bits.values())


def test_table_of_turns(arguments):
    turn = {"file_bytes": 100e6, "peak_bytes": 2**30}
    turns = {
        bench_deploy.TORCH: [turn | {"seconds": [0.4] * 2}],
        bench_deploy.FLOAT: [turn | {"seconds": [0.2, 0.2]}, turn | {"seconds": [0.2, 0.2]}],
        W4: [turn | {"seconds": [0.1, 0.1], "file_bytes": 15e6, "peak_bytes": 2**29}],
    }
    (table,) = bench_deploy.describe(arguments, {"DETR": turns})["tables"]
    rows = {row[1]: row[2:] for row in table["rows"]}
    assert rows[bench_deploy.TORCH] == pytest.approx([400, 400, 0.5, 100, 1, 1])
    assert rows[W4] == pytest.approx([100, 100, 2, 15, 0.15, 0.5])
    Table(**table)
