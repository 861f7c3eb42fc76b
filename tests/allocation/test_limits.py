"""Several limits, ties, fixed layers and several critical sets, beside every plan that there is."""

import numpy as np
import pytest

from fisher_detr.allocation import (
    Aggregate,
    Constraint,
    Costs,
    Restrictions,
    allocate,
    bit_operation_limit,
    byte_limit,
    container_limit,
    latency_limit,
)
from fisher_detr.structures import LayerInfo
from tests.oracles.constrained_plans import allowed_plans, least_cost, sums, within
from tests.oracles.knapsack import brute_force


class RandomProblem:
    """Up to 6 layers x 4 widths, costs over 18 decades, one to three limits near or at what a plan uses."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.shape = int(rng.integers(1, 7)), int(rng.integers(1, 5))
        self.widths = tuple(sorted(rng.choice(np.arange(2, 9), self.shape[1], replace=False).tolist()))
        counts = 10 ** rng.uniform(0, 7, self.shape[0])
        self.layers = [LayerInfo(f"l{i}", int(n), int(rng.integers(1, 999))) for i, n in enumerate(counts)]
        self.costs = {f"set{i}": self._cost(rng) for i in range(rng.integers(1, 4))}
        self.aggregate = rng.choice([*Aggregate])
        self._restrict(rng)
        self._limit(rng)

    def _cost(self, rng):
        kind = rng.choice(["any", "falling", "four a bit", "zeros"])
        cost = 10 ** rng.uniform(-9, 9, self.shape)
        if kind == "falling":
            return np.sort(cost, axis=1)[:, ::-1]
        if kind == "four a bit":
            return cost[:, :1] * 4.0 ** -np.array(self.widths)
        return np.where(rng.random(self.shape) < 0.4, 0.0, cost) if kind == "zeros" else cost

    def _restrict(self, rng):
        num_layers, num_widths = self.shape
        low, high = sorted(rng.integers(num_widths, size=2)) if rng.random() < 0.3 else (0, num_widths - 1)
        between = self.widths[low : high + 1]
        tie = rng.permutation(num_layers)[: rng.integers(2, 4)].tolist() if rng.random() < 0.4 else []
        fixed = {int(rng.integers(num_layers)): int(rng.choice(between))} if rng.random() < 0.4 else {}
        self.plans = allowed_plans(num_layers, self.widths, [tie], fixed, between[0], between[-1])
        self.restrictions = Restrictions(
            ties=(tuple(f"l{i}" for i in tie),),
            fixed={f"l{i}": bits for i, bits in fixed.items()},
            min_bits=between[0],
            max_bits=between[-1],
        )

    def _limit(self, rng):
        macs = {layer.name: int(10 ** rng.uniform(3, 10)) for layer in self.layers}
        times = {
            layer.name: {bits: float(10 ** rng.uniform(-3, 3)) for bits in self.widths}
            for layer in self.layers
        }
        makers = [
            lambda limit: byte_limit(self.layers, self.widths, limit),
            lambda limit: container_limit(self.layers, self.widths, limit),
            lambda limit: bit_operation_limit(self.layers, self.widths, macs, 8, limit),
            lambda limit: latency_limit(self.layers, self.widths, times, limit),
        ]
        common = self.plans[rng.integers(len(self.plans))]
        self.constraints = []
        for index in rng.choice(4, int(rng.integers(1, 4)), replace=False):
            other = self.plans[rng.integers(len(self.plans))]
            plan = common if rng.random() < 0.6 else other
            limit = sums(makers[index](0).usage, plan[None])[0] - (rng.random() < 0.2)
            self.constraints.append(makers[index](limit))

    @property
    def feasible(self):
        """The plans within all limits."""
        limits = [constraint.limit for constraint in self.constraints]
        return self.plans[within(self.plans, [c.usage for c in self.constraints], limits)]

    def allocate(self):
        return allocate(
            Costs.of(self.costs, aggregate=self.aggregate),
            self.layers,
            self.widths,
            budget=None,
            gap=0.0,
            constraints=self.constraints,
            restrictions=self.restrictions,
        )


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_equals_brute_force(start):
    for seed in range(start, start + 100):
        p = RandomProblem(seed)
        optimum = least_cost([*p.costs.values()], p.feasible, p.aggregate == Aggregate.WORST_CASE)
        if np.isinf(optimum):
            with pytest.raises(ValueError, match="too small|in conflict"):
                p.allocate()
            continue
        plan = p.allocate()
        columns = [p.widths.index(plan.bits[layer.name]) for layer in p.layers]
        assert (p.feasible == columns).all(axis=1).any(), seed
        assert plan.cost == pytest.approx(optimum, rel=1e-8), seed
        assert plan.meta["gap"] <= 1e-8, seed


def layers_of(*names):
    return [LayerInfo(name, 800, 1) for name in names]


FALLING = np.array([4.0, 2.0, 1.0])  # at 2, 3, 4 bits
WIDTHS = (2, 3, 4)


def test_the_sets_that_are_not_the_worst_are_served_too():
    """Set u is the worst whatever the plan; only v tells c and d apart, and the sum prefers d."""
    layers = layers_of("a", "c", "d")
    u = np.array([[100.0] * 3, [0.0] * 3, [0.0] * 3])
    v = np.array([[0.0] * 3, FALLING, 10 * FALLING])
    costs = Costs.of({"u": u, "v": v}, aggregate=Aggregate.WORST_CASE)
    # 800 weights: 200, 300 or 400 bytes and a scale of 4. Two of the three hundreds of the rest go to d.
    plan = allocate(costs, layers, WIDTHS, 3 * 204 + 300, gap=0.0)
    assert plan.bits["d"] == 4
    assert plan.bits["c"] == 3
    assert plan.cost == 100.0
    assert plan.meta["prediction"] == {"u": 100.0, "v": 2.0 + 10.0}


def test_weights_of_the_sets_move_the_bits():
    layers = layers_of("a", "b")
    dead = np.zeros(3)
    costs = {"u": np.array([FALLING, dead]), "v": np.array([dead, FALLING])}
    budget = 2 * 204 + 200

    def bits(weights, aggregate=Aggregate.WEIGHTED_SUM):
        return allocate(Costs.of(costs, weights, aggregate), layers, WIDTHS, budget, gap=0.0).bits

    assert bits({"u": 5.0}) == {"a": 4, "b": 2}
    assert bits({"v": 5.0}) == {"a": 2, "b": 4}
    assert bits({}, Aggregate.WORST_CASE) == {"a": 3, "b": 3}
    assert bits({"v": 5.0}, Aggregate.WORST_CASE) == {"a": 2, "b": 4}


def test_the_unit_of_the_costs_does_not_change_the_worst_case_plan():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        layers = [LayerInfo(str(i), int(n), 8) for i, n in enumerate(10 ** rng.uniform(2, 6, 12))]
        costs = {name: 10 ** rng.uniform(-3, 3, (12, 1)) * 4.0 ** -np.array(WIDTHS) for name in "uv"}
        budget = int(0.75 * sum(layer.size_bytes(4) for layer in layers))
        plans = [
            allocate(
                Costs.of({n: c * factor for n, c in costs.items()}, aggregate=Aggregate.WORST_CASE),
                *(layers, WIDTHS, budget),
            )
            for factor in (1.0, 1e9, 1e-290)
        ]
        assert plans[0].bits == plans[1].bits == plans[2].bits


def test_what_is_left_is_spent_within_every_limit():
    layers = layers_of("dead", "alive")
    cost = np.array([[0.0] * 3, FALLING])
    times = {"dead": {2: 1.0, 3: 1.0, 4: 3.0}, "alive": {2: 1.0, 3: 1.0, 4: 1.0}}
    slow = latency_limit(layers, WIDTHS, times, 2.5)
    plan = allocate(cost, layers, WIDTHS, 10_000, constraints=[slow])
    assert plan.bits == {"dead": 3, "alive": 4}


def test_without_a_budget_the_size_is_the_plan_s():
    layers = layers_of("a", "b")
    plan = allocate(np.array([FALLING, FALLING]), layers, WIDTHS, None)
    assert plan.bits == {"a": 4, "b": 4}
    assert plan.size_bytes == plan.budget_bytes == 2 * 404


def test_never_worse_than_a_uniform_plan_beside_fixed_layers():
    layers = layers_of("a", "b", "c")
    cost = np.array([FALLING, FALLING, FALLING])
    fixed = Restrictions(fixed={"a": 4})
    plan = allocate(cost, layers, WIDTHS, 404 + 2 * 304, time_limit=1e-9, restrictions=fixed)
    assert plan.bits == {"a": 4, "b": 3, "c": 3}


def test_choices_within_the_solver_s_tolerance_of_a_limit():
    """The best choice costs 1112; with its presolve, HiGHS calls one of 4202 optimal."""
    layers, widths = [LayerInfo(name, 1000, 1) for name in "abcd"], (4, 5, 6)
    cost = np.array(
        [
            [9.5686095047955111e-02, 2.3906401630749158e-02, 6.0108288514732809e-03],
            [3.8281510311689731e03, 9.0586227249761462e08, 8.2070257721533011e01],
            [7.1467734991199601e-03, 1.3899459182507609e01, 1.8021019634089750e00],
            [1.6479718303044989e04, 4.1200544662782404e03, 1.0299823939894991e03],
        ]
    )
    usages = {
        "container": [[1376, 1463, 1463], [2778, 2851, 2851], [2302, 2520, 2520], [168232, 332944, 332944]],
        "latency": [
            [4.2933586904044514e00, 3.2339029469942809e-01, 3.9288592021031864e-03],
            [6.8581077165554241e-02, 1.0927995149973771e-01, 3.4661614614400010e-02],
            [3.4134385347224444e-01, 3.6601153409890244e01, 1.8181406934608232e-02],
            [4.7174056331449094e01, 9.9258755364925472e-03, 5.8634571018111523e-03],
        ],
        "work": [
            [2153605664, 2692007080, 3230408496],
            [211416431424, 264270539280, 317124647136],
            [42816, 53520, 64224],
            [285437902304, 356797377880, 428156853456],
        ],
    }
    limits = {"container": 339778, "latency": 88.10322998372285, "work": 747435170480}
    constraints = [Constraint(name, np.array(usage), limits[name], name) for name, usage in usages.items()]
    plan = allocate(
        *(cost, layers, widths, None),
        gap=0.0,
        constraints=constraints,
        restrictions=Restrictions(fixed={"b": 6}),
    )
    assert plan.bits == {"a": 4, "b": 6, "c": 4, "d": 6}


def test_a_large_layer_hides_what_small_ones_break():
    """Each of many choices is too large by a few bytes of 2^27: they are excluded together."""
    counts = [2**27, 100, 90, 80, 70, 60, 50]
    layers = [LayerInfo(str(i), n, 1) for i, n in enumerate(counts)]
    cost = np.outer([1e9] + [1.0] * 6, [4.0, 1.0, 0.25])
    budget = sum(layer.size_bytes(2) for layer in layers) + 2**25 + 40
    plan = allocate(cost, layers, (2, 4, 8), budget, gap=0.0)
    sizes = np.array([[layer.size_bytes(bits) for bits in (2, 4, 8)] for layer in layers])
    assert plan.size_bytes <= budget
    assert plan.cost == pytest.approx(brute_force(cost, sizes, budget), rel=1e-12)
    assert plan.meta["gap"] <= 1e-8
