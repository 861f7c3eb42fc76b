"""Plans and tables: what is stored comes back, and a plan is within its budget and none is better."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fisher_detr.allocation import Restrictions, allocate
from fisher_detr.engine.quantization_run import _stored_allocation
from fisher_detr.engine.table_origin import check_origin
from fisher_detr.structures import Arm, BitAllocation, LayerInfo, SensitivityForm, SensitivityTable
from tests.fuzz.strange import changed, one_line
from tests.oracles.constrained_plans import allowed_plans, least_cost, within
from tests.oracles.knapsack import brute_force

WIDTHS = st.lists(st.integers(2, 8), min_size=1, max_size=4, unique=True).map(lambda x: tuple(sorted(x)))
COUNTS = st.one_of(st.integers(1, 40), st.integers(1, 10**7))
COSTS = st.one_of(st.just(0.0), st.floats(1e-12, 1e12), st.sampled_from([1.0, 2.0, 3.0]))


@st.composite
def problems(draw, most=4):
    """Layers, widths and their costs."""
    widths = draw(WIDTHS)
    sizes = draw(st.lists(st.tuples(COUNTS, st.integers(1, 600)), min_size=1, max_size=most))
    layers = tuple(LayerInfo(f"layer{i}", *size) for i, size in enumerate(sizes))
    return layers, widths, draw(arrays(np.float64, (len(layers), len(widths)), elements=COSTS))


def sizes_of(layers, widths):
    return np.array([[layer.size_bytes(bits) for bits in widths] for layer in layers])


@given(problems(), st.floats(-0.1, 1.2))
def test_no_plan_is_better(problem, part):
    """`part` is where the budget lies between the smallest plan and the largest."""
    layers, widths, cost = problem
    sizes = sizes_of(layers, widths)
    least, most = sizes.min(axis=1).sum(), sizes.max(axis=1).sum()
    budget = int(least + part * (most - least + 10))
    optimum = brute_force(cost, sizes, budget)
    if math.isinf(optimum):
        with pytest.raises(ValueError) as error:
            allocate(cost, layers, widths, budget, gap=0.0)
        one_line(error.value, f"budget of {budget} bytes", f"feasible one is {least} bytes")
        return
    plan = allocate(cost, layers, widths, budget, gap=0.0)
    assert plan.size_bytes == sum(layer.size_bytes(plan.bits[layer.name]) for layer in layers) <= budget
    assert plan.cost <= optimum * (1 + 1e-8)
    spent = sum(cost[i, widths.index(plan.bits[layer.name])] for i, layer in enumerate(layers))
    assert spent == pytest.approx(plan.cost, rel=1e-12)


@given(problems(), st.floats(0, 1), st.data())
def test_no_plan_is_better_among_those_that_are_allowed(problem, part, data):
    """Ties, fixed layers, smallest and largest width."""
    layers, widths, cost = problem
    indices = st.integers(0, len(layers) - 1)
    tie = data.draw(st.lists(indices, max_size=2, unique=True))
    fixed = data.draw(st.dictionaries(indices, st.sampled_from(widths), max_size=1))
    smallest, largest = sorted(data.draw(st.tuples(st.integers(2, 8), st.integers(2, 8))))
    ties = [tie] if len(tie) > 1 else []
    assume(not (ties and set(tie) & fixed.keys()))
    sizes = sizes_of(layers, widths)
    budget = int(sizes.min(axis=1).sum() + part * np.ptp(sizes, axis=1).sum())
    plans = allowed_plans(len(layers), widths, ties, fixed, smallest, largest)
    optimum = least_cost([cost], plans[within(plans, [sizes], [budget])], worst=False)
    if any(not smallest <= bits <= largest for bits in fixed.values()):
        optimum = math.inf  # a mistake of the user, which is told
    restrictions = Restrictions(
        ties=tuple(tuple(layers[i].name for i in tie) for tie in ties),
        fixed={layers[i].name: bits for i, bits in fixed.items()},
        min_bits=smallest,
        max_bits=largest,
    )
    try:
        plan = allocate(cost, layers, widths, budget, gap=0.0, restrictions=restrictions)
    except ValueError as error:
        one_line(error)
        assert math.isinf(optimum)
        return
    assert plan.size_bytes <= budget and plan.cost <= optimum * (1 + 1e-8)


@given(st.one_of(st.floats(), st.integers(-(2**70), 2**70)))
def test_any_budget(budget):
    """A plan within it, or one line."""
    layers = [LayerInfo("a", 1001, 3), LayerInfo("b", 10, 1)]
    try:
        plan = allocate(np.ones((2, 2)), layers, (2, 4), budget)
    except ValueError as error:
        one_line(error, "budget")
        assert not budget >= 270 or math.isinf(budget)
    else:
        assert plan.size_bytes <= budget


@pytest.mark.parametrize("budget", [10**400, -(10**400), 2**70, float("nan")])
def test_budgets_beyond_all_numbers(budget):
    layers = [LayerInfo("a", 1001, 3)]
    if budget == 2**70:
        assert allocate(np.ones((1, 2)), layers, (2, 4), budget).bits == {"a": 4}
        return
    with pytest.raises(ValueError, match="budget has the limit .*: expected a finite number of bytes"):
        allocate(np.ones((1, 2)), layers, (2, 4), budget)


def test_costs_whose_sum_is_beyond_all_numbers():
    layers = [LayerInfo("a", 1001, 3), LayerInfo("b", 10, 1)]
    with pytest.raises(ValueError, match=r"cost up to 1e\+308: a sum over the layers is beyond all numbers"):
        allocate(np.full((2, 2), 1e308), layers, (2, 4), 400)


@given(arrays(np.float64, (2, 2), elements=st.floats()))
def test_any_cost(cost):
    layers = [LayerInfo("a", 1001, 3), LayerInfo("b", 10, 1)]
    try:
        plan = allocate(cost, layers, (2, 4), 400)
    except ValueError as error:
        one_line(error, "cost")
        assert not np.isfinite(cost).all() or (cost < 0).any() or cost.max() > 1e307
    else:
        assert plan.size_bytes <= 400


@st.composite
def tables(draw):
    layers, widths, cost = draw(problems())
    finite = st.floats(allow_nan=False, allow_infinity=False)
    terms = {"overall": cost, "cross": draw(arrays(np.float64, cost.shape, elements=finite))}
    traces = {name: draw(arrays(np.float64, len(layers), elements=finite)) for name in terms}
    errors = {"overall": draw(arrays(np.float64, cost.shape, elements=finite))}
    form = draw(st.sampled_from(SensitivityForm))
    return SensitivityTable(layers, widths, terms, traces, form, errors, meta={"seed": draw(st.integers())})


def same(one, other):
    arrays_ = ("terms", "traces", "standard_errors", "linear")
    assert (one.layers, one.widths, one.form, one.meta) == (
        other.layers,
        other.widths,
        other.form,
        other.meta,
    )
    for field in arrays_:
        first, second = getattr(one, field), getattr(other, field)
        assert first.keys() == second.keys()
        assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@settings(max_examples=100)
@given(tables())
def test_tables_come_back_to_the_bit(tmp_path, table):
    table.save(tmp_path / "table.json")
    same(SensitivityTable.load(tmp_path / "table.json"), table)


@settings(max_examples=100)
@given(problems(), st.floats(0, 1))
def test_plans_come_back(tmp_path, problem, part):
    layers, widths, cost = problem
    sizes = sizes_of(layers, widths)
    plan = allocate(cost, layers, widths, int(sizes.min(axis=1).sum() + part * np.ptp(sizes, axis=1).sum()))
    plan.save(tmp_path / "plan.json")
    found = BitAllocation.load(tmp_path / "plan.json")
    assert (found.bits, found.size_bytes, found.budget_bytes) == (
        plan.bits,
        plan.size_bytes,
        plan.budget_bytes,
    )
    assert found.cost == plan.cost


TABLE = {
    "layers": [{"name": "a", "numel": 8, "num_scales": 1}, {"name": "b", "numel": 9, "num_scales": 3}],
    "widths": [2, 4],
    "form": "block",
    "terms": {"overall": [[3.0, 1.0], [2.0, 0.5]]},
    "traces": {"overall": [1.0, 2.0]},
    "standard_errors": {"overall": [[0.1, 0.1], [0.2, 0.2]]},
    "linear": {},
    "meta": {"seed": 0},
}
PLAN = {
    "bits": {"a": 4, "b": 2},
    "size_bytes": 20,
    "budget_bytes": 24,
    "cost": 0.5,
    "meta": {"arm": "uniform"},
}


@pytest.mark.parametrize(("kind", "sound"), [(SensitivityTable, TABLE), (BitAllocation, PLAN)])
def test_changed_files(tmp_path, kind, sound):
    """What is still a table or a plan can be stored again; anything else is refused in one line."""
    path = tmp_path / "file.json"

    @given(changed(sound))
    def run(content):
        path.write_text(json.dumps(content))
        try:
            found = kind.load(path)
        except ValueError as error:
            one_line(error, str(path))
            return
        found.save(path)
        kind.load(path)

    run()


SETTINGS = {"scale": "fisher", "form": "block", "rounding": "nearest", "per_channel": True, "damping": 0.01}
ORIGIN = {
    "arm": "fisher_critical",
    "objective": {"overall_weight": 1.0, "critical_weight": 1.0},
    "critical_set": {"name": "person", "indices": [0, 2], "num_classes": 3},
    "settings": SETTINGS,
    "weights_sha256": "0",
}


def test_plans_with_other_stories(tmp_path):
    """Where a plan comes from and why it is as it is: read again, too, when it is taken from a file."""
    layers = (LayerInfo("a", 1001, 3), LayerInfo("b", 10, 1))
    meta = {"arm": "fisher_critical", "sensitivity": ORIGIN}
    plan = dataclasses.asdict(allocate(np.ones((2, 2)), layers, (2, 4), 400, meta=meta))
    quantizer = types.SimpleNamespace(sets={}, layers=layers)
    path = tmp_path / "plan.json"

    @given(changed(plan["meta"]))
    def run(story):
        path.write_text(json.dumps(plan | {"meta": story}))
        try:
            _stored_allocation(path, Arm.FISHER_OVERALL, quantizer)
        except ValueError as error:
            one_line(error, str(path))

    run()


@given(changed(ORIGIN))
def test_tables_with_other_stories(story):
    try:
        check_origin(types.SimpleNamespace(meta=story), ORIGIN)
    except ValueError as error:
        one_line(error, "the sensitivity table")


@pytest.mark.parametrize(
    "story", [{"sensitivity": [1]}, {"layers": [3]}, {"gap": "small"}, {"constraints": {"a": 1}}]
)
def test_a_plan_with_a_broken_story(tmp_path, story):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN | {"meta": story}))
    with pytest.raises(
        ValueError, match=rf"allocation file {path} is broken \(its meta: .*\): make it again"
    ):
        _stored_allocation(path, Arm.UNIFORM, types.SimpleNamespace(sets={}, layers=()))


@pytest.mark.parametrize("story", [{"settings": 3}, {"critical_set": "person"}])
def test_a_table_with_a_broken_story(story):
    with pytest.raises(
        ValueError, match="the sensitivity table does not tell where it is from: compute it again"
    ):
        check_origin(types.SimpleNamespace(meta=story), ORIGIN)
