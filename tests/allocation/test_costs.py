import numpy as np
import pytest

from fisher_detr.allocation import Aggregate, Costs

ONES = np.ones((2, 3))


def test_how_sets_become_objectives():
    costs = {"u": ONES, "v": 2 * ONES}
    np.testing.assert_array_equal(Costs.of(costs, {"v": 3.0}).objectives, [7 * ONES])
    worst = Costs.of(costs, {"v": 3.0}, Aggregate.WORST_CASE)
    np.testing.assert_array_equal(worst.objectives, [ONES, 6 * ONES])
    assert worst.names == ("u", "v")
    assert Costs.of(worst) is worst


@pytest.mark.parametrize(
    ("cost", "weights", "message"),
    [
        ({"u": ONES, "v": ONES[:1]}, {}, "of the sets have the shapes"),
        ({"u": ONES}, {"w": 1.0}, r"weights of the sets \['w'\]: the sets are \['u'\]"),
        ({"u": ONES}, {"u": -1.0}, "weights of the sets .* not negative"),
        ({"u": ONES, "v": ONES}, {"u": 0.0, "v": 0.0}, "one of them above 0"),
        ({"u": ONES, "v": -ONES}, {}, "cost from -1 to 1: expected finite numbers"),
        (np.ones(3), {}, r"expected \[sets, layers, widths\]"),
    ],
)
def test_bad_costs(cost, weights, message):
    with pytest.raises(ValueError, match=message):
        Costs.of(cost, weights)
