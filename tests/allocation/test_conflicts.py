"""Which limits conflict, and by how much."""

import numpy as np
import pytest

from fisher_detr.allocation import Restrictions, allocate, container_limit, latency_limit
from fisher_detr.structures import LayerInfo

LAYERS = [LayerInfo(name, 800, 1) for name in "abc"]
WIDTHS = (2, 4, 8)
# 800 weights and a scale take 204, 404 or 804 bytes. On this device 2 bits are slow.
TIMES = {name: {2: 3.0, 4: 1.0, 8: 1.5} for name in "abc"}


def plan(budget, latency=None, **restrictions):
    limits = [] if latency is None else [latency_limit(LAYERS, WIDTHS, TIMES, latency)]
    return allocate(
        np.ones((3, 3)),
        *(LAYERS, WIDTHS, budget),
        constraints=limits,
        restrictions=Restrictions(**restrictions),
    )


def test_one_limit_alone():
    with pytest.raises(
        ValueError, match=r"^budget of 600 bytes is too small: .* is 612 bytes \(all at 2 bits\)$"
    ):
        plan(600)
    with pytest.raises(ValueError, match=r"^latency of 2\.9 ms is too small: .* is 3 ms \(all at 4 bits\)$"):
        plan(10_000, 2.9)


def test_a_limit_that_is_impossible_alone_is_not_put_down_to_others():
    with pytest.raises(ValueError, match=r"^budget of 600 bytes is too small: .* is 612 bytes"):
        plan(600, 3.0, min_bits=4, fixed={"a": 8})


def test_two_limits():
    """In 1000 bytes one layer has 4 bits, and 1 + 3 + 3 ms pass; for 5 ms two layers need 4 bits."""
    with pytest.raises(ValueError) as raised:
        plan(1000, 5.0)
    assert str(raised.value) == (
        "in conflict are budget of 1000 bytes, latency of 5 ms: raise budget to 1012 bytes or latency to 7 "
        "ms, or leave any one of them out"
    )
    assert plan(1012, 5.0).size_bytes == 1012
    assert plan(1000, 7.0).size_bytes == 812


def test_a_limit_beside_restrictions():
    with pytest.raises(ValueError) as raised:
        plan(1000, min_bits=4)
    assert str(raised.value) == (
        "in conflict are minimum of 4 bits for a layer, budget of 1000 bytes: raise budget to 1212 bytes, "
        "or leave any one of them out"
    )
    with pytest.raises(
        ValueError, match=r"are fixed widths \(a at 8\), budget .* raise budget to 1212 bytes"
    ):
        plan(1000, fixed={"a": 8})
    with pytest.raises(
        ValueError, match="are maximum of 2 bits for a layer, latency .* raise latency to 9 ms"
    ):
        plan(10_000, 8.0, max_bits=2)
    many = dict.fromkeys("abc", 8)
    with pytest.raises(ValueError, match=r"fixed widths \(a at 8, b at 8, c at 8\)"):
        plan(1000, fixed=many)


def test_ties():
    """Tied layers change together: 612, 1212 or 2412 bytes."""
    with pytest.raises(ValueError, match=r"are ties \(a = b = c\), budget of 1000 bytes, latency of 7 ms"):
        plan(1000, 7.0, ties=(("a", "b", "c"),))


def test_what_is_not_part_of_the_conflict_is_not_named():
    stored = container_limit(LAYERS, WIDTHS, 5000)
    slow = latency_limit(LAYERS, WIDTHS, TIMES, 5.0)
    with pytest.raises(ValueError) as raised:
        allocate(np.ones((3, 3)), LAYERS, WIDTHS, 1000, constraints=[stored, slow])
    assert "container" not in str(raised.value)


def test_a_search_without_time_says_so():
    """No uniform plan holds both: all at 4 bits take 1212 bytes, all at 2 bits 9 ms."""
    with pytest.raises(ValueError, match="no plan within the limits was found .* raise the time limit"):
        allocate(
            *(np.ones((3, 3)), LAYERS, WIDTHS, 1012),
            time_limit=1e-9,
            constraints=[latency_limit(LAYERS, WIDTHS, TIMES, 5.0)],
        )
