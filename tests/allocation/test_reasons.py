import json

import numpy as np
import pytest

from fisher_detr.allocation import (
    Aggregate,
    Costs,
    Restrictions,
    allocate,
    format_plan,
    latency_limit,
    uniform,
)
from fisher_detr.structures import BitAllocation, LayerInfo

LAYERS = [LayerInfo("stem", 800, 1), LayerInfo("q", 80, 1), LayerInfo("k", 80, 1), LayerInfo("head", 8, 1)]
WIDTHS = (2, 4, 8)
COST = np.array([[16.0, 4.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.5, 0.25, 0.375]])


@pytest.fixture
def plan():
    # 204, 404, 804 bytes; 24, 44, 84 bytes twice; 6, 8, 12 bytes.
    return allocate(
        *(COST, LAYERS, WIDTHS, 490),
        gap=0.0,
        constraints=[latency_limit(LAYERS, WIDTHS, {name.name: {2: 1, 4: 1, 8: 2} for name in LAYERS}, 5)],
        restrictions=Restrictions(ties=(("q", "k"),), fixed={"stem": 4}),
    )


def test_reasons_of_every_layer(plan):
    assert plan.bits == {"stem": 4, "q": 2, "k": 2, "head": 4}
    assert plan.meta["layers"] == [
        {
            "name": "stem",
            "bits": 4,
            "sensitivity": {"all": 4.0},
            "narrower": {"bits": 2, "rise": {"all": 12.0}, "bytes": 200},
            "tied": [],
            "held_by": ["fixed"],
        },
        {
            "name": "q",
            "bits": 2,
            "sensitivity": {"all": 3.0},
            "narrower": None,
            "tied": ["k"],
            "held_by": ["budget"],
        },
        {
            "name": "k",
            "bits": 2,
            "sensitivity": {"all": 3.0},
            "narrower": None,
            "tied": ["q"],
            "held_by": ["budget"],
        },
        {
            "name": "head",
            "bits": 4,
            "sensitivity": {"all": 0.25},
            "narrower": {"bits": 2, "rise": {"all": 0.25}, "bytes": 2},
            "tied": [],
            "held_by": ["no gain"],
        },
    ]


def test_prediction_and_use_of_the_limits(plan):
    assert plan.cost == 4.0 + 3.0 + 3.0 + 0.25
    assert plan.meta["prediction"] == {"all": plan.cost}
    assert plan.meta["aggregate"] == "weighted_sum"
    assert plan.meta["constraints"] == [
        {"name": "budget", "unit": "bytes", "limit": 490.0, "used": 404.0 + 24 + 24 + 8},
        {"name": "latency", "unit": "ms", "limit": 5.0, "used": 4.0},
    ]


def test_a_plan_survives_its_file(plan, tmp_path):
    path = tmp_path / "allocation.json"
    plan.save(path)
    assert BitAllocation.load(path) == plan
    assert set(json.loads(path.read_text())) == {"bits", "size_bytes", "budget_bytes", "cost", "meta"}


def test_table(plan):
    *lines, proof = format_plan(plan).splitlines()
    assert lines == [
        "layer  bits  cost  one step less  bytes saved  held by",
        "stem      4     4            +12          200  fixed",
        "q         2     3              -            -  budget; tied to k",
        "k         2     3              -            -  budget; tied to q",
        "head      4  0.25          +0.25            2  no gain",
        "size: 460 bytes",
        "budget: 460 of 490 bytes",
        "latency: 4 of 5 ms",
        "predicted cost: 10.25",
    ]
    assert proof.startswith("proven to be within ")


def test_table_of_several_sets():
    costs = Costs.of({"person": COST, "sign": 2 * COST}, aggregate=Aggregate.WORST_CASE)
    plan = allocate(costs, LAYERS, WIDTHS, 10_000)
    assert plan.cost == 2 * (1 + 1 + 1 + 0.25)
    assert plan.meta["prediction"] == {"person": 3.25, "sign": 6.5}
    header, stem, *_ = format_plan(plan).splitlines()
    assert header.split("  ")[0] == "layer"
    for title in ("cost (person)", "cost (sign)", "one step less (person)", "one step less (sign)"):
        assert title in header
    assert stem.split() == ["stem", "8", "1", "2", "+3", "+6", "400", "widest"]
    assert "predicted cost (sign): 6.5" in format_plan(plan)


def test_table_of_a_plan_that_was_not_solved_for():
    assert format_plan(uniform(LAYERS[:2], 4)).splitlines() == [
        "layer  bits",
        "stem      4",
        "q         4",
        "size: 448 bytes",
    ]
