import json

import numpy as np
import pytest

from fisher_detr.allocation import (
    Constraint,
    allocate,
    bit_operation_limit,
    byte_limit,
    container_limit,
    latency_limit,
    load_latency_table,
)
from fisher_detr.structures import LayerInfo

LAYERS = [LayerInfo("head", 100, 3), LayerInfo("stem", 9, 1)]


def test_bytes():
    # 100 weights: 25, 38 (37.5), 50 bytes beside 3 scales; 9 weights: 3 (2.25), 4 (3.4), 5 (4.5) beside one.
    usage = byte_limit(LAYERS, (2, 3, 4), 1).usage
    assert usage.tolist() == [[25 + 12, 38 + 12, 50 + 12], [3 + 4, 4 + 4, 5 + 4]]


def test_containers():
    """2 is stored in 2, 3 and 4 in 4, 5 to 8 in 8 bits."""
    sizes = [LAYERS[0].size_bytes(stored) for stored in (2, 4, 4, 8, 8, 8, 8)]
    assert container_limit(LAYERS, (2, 3, 4, 5, 6, 7, 8), 1).usage[0].tolist() == sizes


@pytest.mark.parametrize(("activation_bits", "counted"), [(8, 8), (4, 4), (0, 32)])
def test_bit_operations(activation_bits, counted):
    macs = {"stem": 50, "head": 1000}
    usage = bit_operation_limit(LAYERS, (2, 4), macs, activation_bits, 1).usage
    assert usage.tolist() == [[1000 * 2 * counted, 1000 * 4 * counted], [50 * 2 * counted, 50 * 4 * counted]]


def test_latency_from_a_file(tmp_path):
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"head": {"2": 0.5, "4": 1}, "stem": {"4": 0.25, "2": 0.75}}))
    usage = latency_limit(LAYERS, (2, 4), load_latency_table(path), 1).usage
    assert usage.tolist() == [[0.5, 1.0], [0.75, 0.25]]


@pytest.mark.parametrize(
    "content", ['["head"]', '{"head": 3}', '{"head": {"two": 1}}', '{"head": {"2": null}}']
)
def test_a_broken_latency_table(tmp_path, content):
    path = tmp_path / "latency.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r'latency.json is broken .* expected \{"layer": \{"4": time\}\}'):
        load_latency_table(path)


def test_what_a_table_lacks():
    with pytest.raises(
        ValueError, match="no count of multiply-accumulates for 1 of 2 layers, first 'stem' .*stam"
    ):
        bit_operation_limit(LAYERS, (2,), {"head": 1, "stam": 1}, 8, 1)
    with pytest.raises(ValueError, match="no latency for 2 of 2 layers, first 'head' .*it is empty"):
        latency_limit(LAYERS, (2,), {}, 1)
    with pytest.raises(ValueError, match=r"the latency table lacks 'stem' at \[4\] bits"):
        latency_limit(LAYERS, (2, 4), {"head": {2: 1, 4: 1}, "stem": {2: 1}}, 1)
    with pytest.raises(ValueError, match="activations of -1 bits"):
        bit_operation_limit(LAYERS, (2,), {"head": 1, "stem": 1}, -1, 1)


def test_bad_numbers():
    with pytest.raises(ValueError, match="latency uses from -1 to 1 ms: expected finite"):
        latency_limit(LAYERS, (2,), {"head": {2: -1.0}, "stem": {2: 1.0}}, 1)
    with pytest.raises(ValueError, match="budget has the limit inf"):
        byte_limit(LAYERS, (2,), float("inf"))
    odd = Constraint("odd", np.ones((1, 2)), 1, "things")
    with pytest.raises(ValueError, match=r"odd has usage of shape \(1, 2\), expected 2 layers x 2 widths"):
        allocate(np.ones((2, 2)), LAYERS, (2, 4), 1000, constraints=[odd])
    with pytest.raises(ValueError, match=r"named twice: \['budget'\]"):
        allocate(np.ones((2, 2)), LAYERS, (2, 4), 1000, constraints=[byte_limit(LAYERS, (2, 4), 1000)])


def test_whole_numbers_are_exact_and_fractions_held_to_rounding():
    """0.1 + 0.2 is more than 0.3 by rounding; of bytes, 44 is more than 43.999999999."""
    times = {"head": {2: 0.1, 4: 5.0}, "stem": {2: 0.2, 4: 5.0}}
    plan = allocate(
        np.ones((2, 2)), LAYERS, (2, 4), None, constraints=[latency_limit(LAYERS, (2, 4), times, 0.3)]
    )
    assert plan.bits == {"head": 2, "stem": 2}
    narrow = byte_limit(LAYERS, (2, 4), 37 + 7 - 1e-9)
    with pytest.raises(ValueError, match="smallest feasible one is 44 bytes"):
        allocate(np.ones((2, 2)), LAYERS, (2, 4), None, constraints=[narrow])
