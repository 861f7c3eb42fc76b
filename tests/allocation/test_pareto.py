import logging

import numpy as np
import pytest

from fisher_detr.allocation import Restrictions, allocate, latency_limit, pareto
from fisher_detr.structures import LayerInfo
from tests.oracles.knapsack import brute_force


def test_every_plan_is_the_best_of_its_size(problem):
    p = problem(3, 5, widths=(2, 3, 4, 8))
    plans = pareto(p.cost, p.layers, p.widths, points=12, gap=0.0)
    assert len(plans) > 6
    for plan in plans:
        assert plan.cost == pytest.approx(brute_force(p.cost, p.sizes, plan.budget_bytes), rel=1e-8)
    assert plans[0].size_bytes == p.sizes.min(axis=1).sum()
    assert plans[-1].cost == pytest.approx(p.cost.min(axis=1).sum())


def test_no_plan_is_dominated(problem):
    plans = pareto(problem(1, 30).cost, problem(1, 30).layers, problem(1, 30).widths)
    sizes, costs = [p.size_bytes for p in plans], [p.cost for p in plans]
    assert sizes == sorted(set(sizes))
    assert costs == sorted(set(costs), reverse=True)
    assert len(plans) == 25


def test_a_plan_of_the_curve_is_what_allocate_finds(problem):
    p = problem(2, 30)
    middle = pareto(p.cost, p.layers, p.widths, gap=1e-6, meta={"seed": 2})[12]
    alone = allocate(p.cost, p.layers, p.widths, middle.budget_bytes, gap=1e-6)
    assert middle.cost == pytest.approx(alone.cost, rel=1e-5)
    assert middle.meta["seed"] == 2
    assert middle.meta.keys() - {"seed"} == alone.meta.keys()


def test_other_limits_hold_at_every_point():
    """2 bits take 3 ms, 4 bits 1 ms: the smallest plan within 5 ms has two layers at 4 bits."""
    layers = [LayerInfo(name, 800, 1) for name in "abc"]
    widths = (2, 4, 8)
    slow = latency_limit(layers, widths, {name: {2: 3.0, 4: 1.0, 8: 1.0} for name in "abc"}, 5.0)
    cost = np.array([[1.0], [2.0], [4.0]]) * 4.0 ** -np.array(widths)
    plans = pareto(cost, layers, widths, constraints=[slow], restrictions=Restrictions(max_bits=4))
    assert [plan.bits for plan in plans] == [{"a": 2, "b": 4, "c": 4}, {"a": 4, "b": 4, "c": 4}]


def test_costs_that_do_not_differ_are_one_plan():
    layers = [LayerInfo(name, 800, 1) for name in "ab"]
    (plan,) = pareto(np.zeros((2, 3)), layers, (2, 3, 4))
    assert plan.bits == {"a": 2, "b": 2}


def test_without_time_the_curve_says_what_was_proven(problem, caplog):
    p = problem(1, 60)
    with caplog.at_level(logging.WARNING):
        plans = pareto(p.cost, p.layers, p.widths, time_limit=1e-9)
    assert max(plan.meta["gap"] for plan in plans) > 1e-3
    assert "from optimal" in caplog.text


def test_bad_input(problem):
    p = problem(1, 3)
    with pytest.raises(ValueError, match="curve of 1 points: expected 2 or more"):
        pareto(p.cost, p.layers, p.widths, points=1)
    with pytest.raises(ValueError, match="gap"):
        pareto(p.cost, p.layers, p.widths, gap=2.0)
