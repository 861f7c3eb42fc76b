import numpy as np
import pytest

from fisher_detr.allocation import (
    Aggregate,
    Restrictions,
    allocate_arm,
    budget_bytes,
    byte_limit,
    combine,
    uniform,
)
from fisher_detr.structures import Arm, Combination, LayerInfo, Objective, SensitivityForm, SensitivityTable

LAYERS = (LayerInfo("a", 1000, 10), LayerInfo("b", 500, 1))
WIDTHS = (2, 3, 4)


def make_table(seed=0, layers=LAYERS, objectives=2, form=SensitivityForm.BLOCK):
    """A table from real projections, so that the cross term fits the others."""
    rng = np.random.default_rng(seed)
    projections = rng.normal(size=(objectives, 16, len(layers), len(WIDTHS))) * 0.5 ** np.array(WIDTHS)
    gradients = rng.normal(size=(objectives, 16, len(layers)))
    pairs = (
        {"overall": (0, 0), "cross": (0, -1), "critical": (-1, -1)}
        if objectives == 2
        else {"overall": (0, 0)}
    )
    return SensitivityTable(
        layers=layers,
        widths=WIDTHS,
        terms={name: (projections[a] * projections[b]).mean(axis=0) for name, (a, b) in pairs.items()},
        traces={name: (gradients[a] * gradients[b]).mean(axis=0) for name, (a, b) in pairs.items()},
        form=form,
        meta={"seed": seed},
    ), projections


def test_square_of_sum_is_the_form_of_the_summed_gradient():
    table, (overall, critical) = make_table()
    cost = combine(table, Objective(2.0, 3.0, Combination.SQUARE_OF_SUM))
    np.testing.assert_allclose(cost, ((2 * overall + 3 * critical) ** 2).mean(axis=0), rtol=1e-12)


def test_sum_of_normalized_divides_by_the_total_trace():
    table, _ = make_table()
    cost = combine(table, Objective(2.0, 3.0, Combination.SUM_OF_NORMALIZED))
    expected = 2 * table.terms["overall"] / table.traces["overall"].sum()
    expected += 3 * table.terms["critical"] / table.traces["critical"].sum()
    np.testing.assert_allclose(cost, expected, rtol=1e-12)


@pytest.mark.parametrize("how", Combination)
def test_without_critical_weight_the_overall_term_is_enough(how):
    table, _ = make_table(objectives=1)
    cost = combine(table, Objective(1.0, 0.0, how))
    ratio = cost / table.terms["overall"]
    np.testing.assert_allclose(ratio, ratio[0, 0])
    with pytest.raises(ValueError, match=r"needs the terms \['critical'.*\], the estimate has \['overall'\]"):
        combine(table, Objective(1.0, 1.0, how))


def test_opposite_gradients_cancel_to_zero_and_not_below():
    table, (overall, _) = make_table()
    values = overall**2
    opposite = {"overall": values.mean(0), "cross": -values.mean(0) / 3, "critical": values.mean(0) / 9}
    traces = {"overall": np.ones(2), "cross": -np.ones(2) / 3, "critical": np.ones(2) / 9}
    table = SensitivityTable(LAYERS, WIDTHS, opposite, traces, SensitivityForm.BLOCK)
    cost = combine(table, Objective(1.0, 3.0, Combination.SQUARE_OF_SUM))
    assert (cost >= 0.0).all()
    assert (cost <= 1e-15).all()


def test_terms_that_contradict_each_other_are_refused():
    table, _ = make_table()
    table.terms["cross"][1, 1] = -100.0
    with pytest.raises(ValueError, match="negative sensitivity"):
        combine(table, Objective(combine=Combination.SQUARE_OF_SUM))


def test_a_critical_objective_without_information_is_refused():
    table, _ = make_table()
    table.terms["critical"][:] = table.traces["critical"][:] = 0.0
    with pytest.raises(ValueError, match="trace of 'critical' is 0"):
        combine(table, Objective())


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (0.0, 0.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="weight"):
        Objective(*weights)


def test_budget_counts_weights_and_scales():
    # 1000 weights x 3 bits = 375 bytes and 10 scales; 500 x 3 bits = 187.5, so 188 bytes, and 1 scale.
    assert budget_bytes(LAYERS, 3) == 375 + 40 + 188 + 4
    # 4 bits: 500 + 40 + 250 + 4 = 794; half-way between 607 and 794 lies 700.5.
    assert budget_bytes(LAYERS, 3.5) == 700
    assert budget_bytes(LAYERS, 8) == 1000 + 40 + 500 + 4
    for bits in (1.9, 8.1, float("nan")):
        with pytest.raises(ValueError, match="expected 2 to 8"):
            budget_bytes(LAYERS, bits)


def test_uniform():
    plan = uniform(LAYERS, 3)
    assert plan.bits == {"a": 3, "b": 3}
    assert plan.size_bytes == plan.budget_bytes == budget_bytes(LAYERS, 3)
    assert plan.cost is None
    with pytest.raises(ValueError, match=r"not 3.5 bits: take 3 or 4"):
        uniform(LAYERS, 3.5)
    for bits in (0, 9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected 2 to 8"):
            uniform(LAYERS, bits)


def test_arms_at_equal_bytes():
    layers = tuple(LayerInfo(str(i), 1000 + i, 4) for i in range(30))
    table, _ = make_table(layers=layers)
    objective = Objective(1.0, 5.0)
    plans = {arm: allocate_arm(arm, layers, 3, table, objective) for arm in Arm}
    sizes = {arm: plan.size_bytes for arm, plan in plans.items()}
    budget = sizes[Arm.UNIFORM]
    assert all(0.99 * budget <= size <= budget for size in sizes.values())
    overall, critical = plans[Arm.FISHER_OVERALL], plans[Arm.FISHER_CRITICAL]
    assert overall.bits != critical.bits
    assert overall.meta["objective"] == {
        "overall_weight": 1.0,
        "critical_weight": 0.0,
        "combine": objective.combine,
    }
    assert critical.meta["objective"]["critical_weight"] == 5.0
    assert critical.meta["arm"] == "fisher_critical"
    assert critical.meta["average_bits"] == 3
    assert critical.meta["sensitivity"] == {"seed": 0}
    assert critical.meta["form"] == "block"
    cost = combine(table, objective)
    assert critical.cost <= cost[:, WIDTHS.index(3)].sum()
    assert critical.cost == pytest.approx(
        sum(cost[i, WIDTHS.index(bits)] for i, bits in enumerate(critical.bits.values()))
    )


def test_fisher_overall_needs_no_critical_term_and_no_overall_weight():
    table, _ = make_table(objectives=1)
    plan = allocate_arm(Arm.FISHER_OVERALL, LAYERS, 3, table, Objective(0.0, 1.0))
    assert plan.meta["objective"]["overall_weight"] == 1.0
    with pytest.raises(ValueError, match="critical"):
        allocate_arm(Arm.FISHER_CRITICAL, LAYERS, 3, table)


def test_an_arm_with_the_wrong_table():
    table, _ = make_table()
    with pytest.raises(ValueError, match="needs a sensitivity table"):
        allocate_arm(Arm.FISHER_OVERALL, LAYERS, 3)
    with pytest.raises(ValueError, match=r"2 layers, the model 1; they differ in \['b'\]"):
        allocate_arm(Arm.FISHER_OVERALL, LAYERS[:1], 3, table)
    with pytest.raises(ValueError, match="their order"):
        allocate_arm(Arm.FISHER_OVERALL, LAYERS[::-1], 3, table)
    assert allocate_arm(Arm.UNIFORM, LAYERS, 3).meta["arm"] == "uniform"


def test_an_arm_for_several_critical_sets():
    layers = tuple(LayerInfo(str(i), 1000 + i, 4) for i in range(12))
    tables = {"person": make_table(1, layers)[0], "sign": make_table(2, layers)[0]}
    costs = {name: combine(table, Objective()) for name, table in tables.items()}
    plans = {
        how: allocate_arm(Arm.FISHER_CRITICAL, layers, 3, tables, gap=0.0, aggregate=how) for how in Aggregate
    }
    for plan in plans.values():
        columns = [WIDTHS.index(bits) for bits in plan.bits.values()]
        predicted = {name: cost[range(12), columns].sum() for name, cost in costs.items()}
        assert plan.meta["prediction"] == pytest.approx(predicted)
        assert plan.meta["sensitivity"] == {"person": {"seed": 1}, "sign": {"seed": 2}}
    summed, worst = plans[Aggregate.WEIGHTED_SUM], plans[Aggregate.WORST_CASE]
    assert summed.cost == pytest.approx(sum(summed.meta["prediction"].values()))
    assert worst.cost == pytest.approx(max(worst.meta["prediction"].values()))
    assert worst.cost <= max(summed.meta["prediction"].values()) * (1 + 1e-9)
    weights = {"person": 1e3}
    alone = allocate_arm(Arm.FISHER_CRITICAL, layers, 3, tables, gap=0.0, set_weights=weights)
    assert alone.meta["prediction"]["person"] <= summed.meta["prediction"]["person"]


def test_an_arm_within_limits_and_restrictions():
    table, _ = make_table()
    tied = allocate_arm(Arm.FISHER_CRITICAL, LAYERS, 3, table, restrictions=Restrictions(ties=(("a", "b"),)))
    assert tied.bits == {"a": 3, "b": 3}
    small = byte_limit(LAYERS, WIDTHS, budget_bytes(LAYERS, 2), "flash")
    assert allocate_arm(Arm.FISHER_CRITICAL, LAYERS, 3, table, constraints=[small]).bits == {"a": 2, "b": 2}


def test_tables_of_several_sets_that_do_not_fit_together():
    table, _ = make_table()
    tables = {"person": table, "sign": table.at_widths((2, 4))}
    with pytest.raises(ValueError, match="tables of the sets have several widths"):
        allocate_arm(Arm.FISHER_CRITICAL, LAYERS, 3, tables)
    with pytest.raises(ValueError, match="needs a sensitivity table"):
        allocate_arm(Arm.FISHER_CRITICAL, LAYERS, 3, {})
