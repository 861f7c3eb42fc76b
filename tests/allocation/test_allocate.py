import logging

import numpy as np
import pytest

from fisher_detr.allocation import allocate, budget_bytes, solver
from fisher_detr.structures import LayerInfo
from tests.oracles.knapsack import brute_force, dynamic_program, lagrange_bound


def sizes_of(layers, widths):
    return np.array([[layer.size_bytes(bits) for bits in widths] for layer in layers])


def random_cost(rng, kind, shape, widths):
    """Costs over 18 decades: any, falling with the width, falling by four a bit, many zeros."""
    if kind == "falling":
        return np.sort(10 ** rng.uniform(-9, 9, shape), axis=1)[:, ::-1]
    if kind == "four a bit":
        return 10 ** rng.uniform(-9, 9, (shape[0], 1)) * 4.0 ** -np.array(widths)
    cost = 10 ** rng.uniform(-9, 9, shape)
    return np.where(rng.random(shape) < 0.4, 0.0, cost) if kind == "zeros" else cost


@pytest.mark.parametrize("kind", ["any", "falling", "four a bit", "zeros"])
def test_equals_brute_force_over_18_decades(kind):
    rng = np.random.default_rng(len(kind))
    for _ in range(40):
        shape = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        widths = tuple(sorted(rng.choice(np.arange(2, 9), shape[1], replace=False).tolist()))
        cost = random_cost(rng, kind, shape, widths)
        counts = 10 ** rng.uniform(0, 6.5, shape[0])
        layers = [LayerInfo(str(i), int(n), int(rng.integers(1, 999))) for i, n in enumerate(counts)]
        sizes = sizes_of(layers, widths)
        budget = int(rng.integers(sizes[:, 0].sum(), sizes[:, -1].sum() + 1))
        plan = allocate(cost, layers, widths, budget, gap=0.0)
        assert plan.size_bytes == sum(layer.size_bytes(plan.bits[layer.name]) for layer in layers) <= budget
        assert plan.cost == pytest.approx(brute_force(cost, sizes, budget), rel=1e-8)


def test_a_budget_is_held_to_the_byte(problem):
    """HiGHS takes a plan of one byte too many, of megabytes, for feasible."""
    for seed in range(20):
        p = problem(seed, 4, largest=7, widths=(2, 4, 8))
        rng = np.random.default_rng(seed)
        budget = int(p.sizes[np.arange(4), rng.integers(3, size=4)].sum()) - 1
        if budget < p.sizes[:, 0].sum():
            continue
        plan = allocate(p.cost, p.layers, p.widths, budget, gap=0.0)
        assert plan.size_bytes <= budget
        assert plan.cost == pytest.approx(brute_force(p.cost, p.sizes, budget), rel=1e-8)


@pytest.mark.parametrize("decades", [2, 15])
def test_equals_a_dynamic_program_on_40_layers(problem, decades):
    for seed in range(3):
        p = problem(seed, 40, decades, largest=4)
        budget = budget_bytes(p.layers, 3.5)
        optimum = dynamic_program(p.cost, p.sizes, budget)
        exact = allocate(p.cost, p.layers, p.widths, budget, gap=0.0)
        assert exact.cost == pytest.approx(optimum, rel=1e-8)
        assert exact.meta["gap"] <= 1e-8
        near = allocate(p.cost, p.layers, p.widths, budget, gap=1e-3)
        assert near.cost * (1 - near.meta["gap"]) <= optimum * (1 + 1e-9)
        assert near.meta["gap"] <= 1e-3


def test_200_layers_reach_the_lagrange_bound(problem):
    for seed in range(2):
        p = problem(seed, 200, decades=6)
        plan = allocate(p.cost, p.layers, p.widths, budget_bytes(p.layers, 4), gap=1e-4)
        bound = lagrange_bound(p.cost, p.sizes, plan.budget_bytes)
        assert bound * (1 - 1e-9) <= plan.cost <= bound * 1.005


def test_the_unit_of_the_sensitivities_does_not_change_the_plan(problem):
    for seed in range(12):
        p = problem(seed, 5 + 3 * seed, decades=[2, 6, 15][seed % 3])
        budget = budget_bytes(p.layers, [3, 3.5, 4, 5][seed % 4])
        plan = allocate(p.cost, p.layers, p.widths, budget)
        for factor in (1e9, 1e-9, 1e-290):
            scaled = allocate(p.cost * factor, p.layers, p.widths, budget)
            assert scaled.bits == plan.bits
            assert scaled.cost == pytest.approx(plan.cost * factor, rel=1e-12)


@pytest.mark.parametrize("seed", [0, 9, 28, 45, 50, 89, 99])  # all but 0 failed before costs were rounded
def test_the_unit_does_not_choose_among_equal_plans(seed):
    """Many plans cost the same; the last bit of a rescaled cost must not decide."""
    rng = np.random.default_rng(seed)
    widths = (2, 3, 4, 5, 6, 7, 8)
    counts = rng.choice([1000, 2000, 4000], int(rng.integers(4, 30)))
    layers = [LayerInfo(str(i), int(n), 8) for i, n in enumerate(counts)]
    cost = rng.choice([1.0, 2.0, 3.0, 5.0], (len(layers), 1)) * 4.0 ** -np.array(widths)
    budget = budget_bytes(layers, rng.choice([3, 3.3, 4]))
    bits = [allocate(cost * factor, layers, widths, budget).bits for factor in (1.0, 1e9, 1e-9)]
    assert bits[0] == bits[1] == bits[2]


def test_one_choice_may_hold_nearly_all_of_the_cost():
    """Uniform 3 bits cost 10.5; the best plan takes 9 of it in one layer."""
    layers = [LayerInfo("a", 1000, 1), LayerInfo("b", 1000, 1)]
    cost = np.array([[100.0, 10.0, 0.0], [9.0, 0.5, 0.0]])
    assert allocate(cost, layers, (2, 3, 4), budget_bytes(layers, 3)).bits == {"a": 4, "b": 2}


def test_an_optimum_far_below_the_uniform_plan():
    """In units of the uniform plan, HiGHS calls a plan optimal that is 4e-6 too dear."""
    counts = [(3103055, 3), (59, 2), (714, 4), (173678, 11)]
    layers = [LayerInfo(str(i), *sizes) for i, sizes in enumerate(counts)]
    cost = np.array(
        [[5e-2, 2e4, 8e8, 2e7], [5e-5, 5e8, 4e-8, 4e-8], [9e-9, 6e7, 7e-9, 3e-6], [7e8, 3e8, 3e2, 8e-1]]
    )
    plan = allocate(cost, layers, (2, 3, 4, 7), 1885620, gap=0.0)
    optimum = brute_force(cost, sizes_of(layers, (2, 3, 4, 7)), 1885620)
    assert plan.cost == pytest.approx(optimum, rel=1e-8)
    assert plan.meta["gap"] <= 1e-8


def test_layers_from_1e_12_to_1e_3(problem):
    """The optimum must not be lost below the absolute tolerances once the largest layers have their bits."""
    p = problem(0, 12, largest=3)
    p.cost *= np.geomspace(1e-12, 1e3, 12)[:, None]
    budget = budget_bytes(p.layers, 4)
    plan = allocate(p.cost, p.layers, p.widths, budget, gap=0.0)
    assert plan.cost == pytest.approx(dynamic_program(p.cost, p.sizes, budget), rel=1e-8)


def test_sensitivities_that_are_all_zero_give_more_bits_while_bytes_are_left():
    layers = [LayerInfo(name, 1000, 1) for name in "abcd"]
    plan = allocate(np.zeros((4, 3)), layers, (2, 3, 4), budget_bytes(layers, 2.5))
    # 2 bits are 250 bytes and a scale of 4: two layers can have a third bit.
    assert plan.bits == {"a": 3, "b": 3, "c": 2, "d": 2}
    assert plan.size_bytes == 4 * 254 + 2 * 125
    assert plan.cost == 0.0
    assert plan.meta["gap"] == 0.0


def test_bytes_that_are_left_go_to_a_layer_without_sensitivity():
    layers = [LayerInfo("dead", 80, 1), LayerInfo("alive", 800, 1)]
    cost = np.array([[0.0, 0.0, 0.0], [9.0, 3.0, 1.0]])
    plan = allocate(cost, layers, (2, 3, 4), 20 + 4 + 400 + 4 + 10)
    assert plan.bits == {"dead": 3, "alive": 4}


def test_equal_layers_are_treated_the_same_way_each_time(problem):
    layers = [LayerInfo(name, 1000, 8) for name in "abcdefgh"]
    cost = np.repeat(4.0 ** -np.array([[2, 3, 4]]), 8, axis=0)
    plans = [allocate(cost, layers, (2, 3, 4), budget_bytes(layers, 3.25)) for _ in range(3)]
    assert plans[0].bits == plans[1].bits == plans[2].bits
    assert plans[0].cost == pytest.approx(
        dynamic_program(cost, sizes_of(layers, (2, 3, 4)), plans[0].budget_bytes)
    )


def test_a_width_that_costs_more_than_a_narrower_one_is_not_taken():
    layers = [LayerInfo("a", 1000, 1)]
    plan = allocate(np.array([[3.0, 1.0, 2.0]]), layers, (2, 3, 4), 10_000)
    assert plan.bits == {"a": 3}


def test_smallest_feasible_budget_is_named():
    layers = [LayerInfo("a", 1001, 3), LayerInfo("b", 10, 1)]
    smallest = (251 + 12) + (3 + 4)
    with pytest.raises(
        ValueError, match=f"budget of {smallest - 1} bytes .* feasible one is {smallest} bytes"
    ):
        allocate(np.ones((2, 2)), layers, (2, 4), smallest - 1)
    assert allocate(np.ones((2, 2)), layers, (2, 4), smallest).size_bytes == smallest


def test_without_time_the_plan_is_uniform_and_says_what_was_proven(problem, caplog):
    p = problem(1, 60)
    budget = budget_bytes(p.layers, 4)
    with caplog.at_level(logging.WARNING):
        plan = allocate(p.cost, p.layers, p.widths, budget, time_limit=1e-9)
    assert set(plan.bits.values()) == {4}
    best = allocate(p.cost, p.layers, p.widths, budget)
    assert 0.01 < plan.meta["gap"] < 1.0
    assert plan.cost * (1 - plan.meta["gap"]) <= best.cost
    assert "from optimal" in caplog.text


@pytest.mark.parametrize("answer", ["nothing", "worse"])
def test_never_worse_than_uniform_whatever_the_solver_says(problem, monkeypatch, answer):
    p = problem(1, 10)
    x = None
    if answer == "worse":
        x = np.zeros(p.cost.shape)
        x[:, 0] = 1.0
    result = solver.OptimizeResult(x=x if x is None else x.ravel(), mip_dual_bound=None, status=1)
    monkeypatch.setattr(solver, "milp", lambda *_, **__: result)
    plan = allocate(p.cost, p.layers, p.widths, budget_bytes(p.layers, 4))
    assert plan.cost <= p.cost[:, p.widths.index(4)].sum()
    assert plan.cost == pytest.approx(p.cost_of(plan))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cost": np.ones((2, 3))}, r"cost has shape \(2, 3\), expected 2 layers x 2 widths"),
        ({"cost": np.array([[1.0, np.nan], [1, 1]])}, "expected finite numbers"),
        ({"cost": np.array([[1.0, -1.0], [1, 1]])}, "not negative"),
        ({"layers": []}, "no layers"),
        ({"layers": [LayerInfo("a", 5, 1)] * 2}, r"named twice: \['a'\]"),
        ({"widths": (4, 2)}, "ascending"),
        ({"widths": (1, 4)}, "2 to 8"),
        ({"gap": -1.0}, "gap"),
        ({"time_limit": 0.0}, "time limit"),
    ],
)
def test_bad_input(change, message):
    good = {"cost": np.ones((2, 2)), "layers": [LayerInfo("a", 5, 1), LayerInfo("b", 5, 1)], "widths": (2, 4)}
    with pytest.raises(ValueError, match=message):
        allocate(**{**good, **change}, budget=100)
