"""From the keys of the config to constraints and restrictions of the allocator."""

import json

import pytest

from fisher_detr.engine.limits import Limits
from fisher_detr.structures import LayerInfo

LAYERS = [
    LayerInfo(name, 96, 4)
    for name in ("stem", "stem2", "encoder.0.q_proj", "encoder.0.k_proj", "encoder.1.q_proj", "head.k_proj")
]
WIDTHS = (2, 3, 8)


def no_macs():
    raise AssertionError("counted for nothing")


def test_nothing_is_limited_by_default():
    limits = Limits()
    assert limits.constraints(LAYERS, WIDTHS, 8, no_macs) == []
    assert limits.restrictions(LAYERS).ties == ()
    assert limits.restrictions(LAYERS).fixed == {}


def test_ties_join_the_layers_of_one_module():
    assert Limits(ties=("q_proj+k_proj",)).restrictions(LAYERS).ties == (
        ("encoder.0.q_proj", "encoder.0.k_proj"),
    )
    assert Limits(ties=("stem+head.k_proj",)).restrictions(LAYERS).ties == (("stem", "head.k_proj"),)


def test_fixed_are_all_layers_at_or_below_a_path():
    assert Limits(fixed=("stem:8", "encoder.0:3")).restrictions(LAYERS).fixed == {
        "stem": 8,
        "encoder.0.q_proj": 3,
        "encoder.0.k_proj": 3,
    }


@pytest.mark.parametrize("entry", ["q_proj+v_proj", "q_proj", "proj+k_proj"])
def test_ties_of_nothing(entry):
    with pytest.raises(ValueError, match=r"ALLOCATION.TIES has .* fits no layers"):
        Limits(ties=(entry,)).restrictions(LAYERS)


def test_a_layer_fixed_twice():
    with pytest.raises(ValueError, match=r"ALLOCATION.FIXED gives 'stem' 8 bits, and 4: keep one"):
        Limits(fixed=("stem:8", "stem:4")).restrictions(LAYERS)


@pytest.mark.parametrize("entry", ["stem", "stem:x", "decoder:3", ":3"])
def test_fixed_layers_of_nothing(entry):
    with pytest.raises(
        ValueError, match=r"ALLOCATION.FIXED has .*such as \"backbone.stem:8\"; layers are stem"
    ):
        Limits(fixed=(entry,)).restrictions(LAYERS)


def test_limits_are_those_of_the_keys(tmp_path):
    table = tmp_path / "latency.json"
    table.write_text(json.dumps({layer.name: {"2": 0.5, "3": 0.6, "8": 1.0} for layer in LAYERS}))
    limits = Limits(1000, 0.5, str(table), 4.0)
    container, work, latency = limits.constraints(LAYERS, WIDTHS, 8, lambda: {x.name: 10 for x in LAYERS})
    assert (container.limit, work.limit, latency.limit) == (1000, 0.5e9, 4.0)
    assert container.usage[0].tolist() == [24 + 16, 48 + 16, 96 + 16]  # 3 bits are stored as 4
    assert work.usage[0].tolist() == [10 * 8 * 2, 10 * 8 * 3, 10 * 8 * 8]
    assert latency.usage[0].tolist() == [0.5, 0.6, 1.0]
