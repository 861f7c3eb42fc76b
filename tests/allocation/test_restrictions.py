import numpy as np
import pytest

from fisher_detr.allocation import Restrictions, allocate
from fisher_detr.structures import LayerInfo

NAMES = ("q", "k", "v", "out")
WIDTHS = (2, 4, 8)


def plan_of(restrictions, budget=100_000, widths=WIDTHS):
    layers = [LayerInfo(name, 800, 1) for name in NAMES]
    cost = 10.0 ** np.arange(4)[:, None] * 4.0 ** -np.array(widths)
    return allocate(cost, layers, widths, budget, gap=0.0, restrictions=restrictions).bits


def test_ties_that_share_a_layer_are_one():
    groups = Restrictions(ties=(("q", "k"), ("v", "out"), ("k", "out"))).groups(NAMES)
    assert groups == [[0, 1, 2, 3]]
    assert Restrictions(ties=(("k", "out"),)).groups(NAMES) == [[0], [1, 3], [2]]


def test_tied_layers_have_one_width():
    # All at 2 bits take 4 x 204 bytes; 4 bits for two layers 400 more, which the tie of q and out takes.
    bits = plan_of(Restrictions(ties=(("q", "out"),)), 4 * 204 + 400)
    assert bits == {"q": 4, "k": 2, "v": 2, "out": 4}


def test_fixed_smallest_and_largest_width():
    assert plan_of(Restrictions(fixed={"q": 2})) == {"q": 2, "k": 8, "v": 8, "out": 8}
    assert plan_of(Restrictions(max_bits=5)) == dict.fromkeys(NAMES, 4)
    assert plan_of(Restrictions(min_bits=3), 4 * 404) == dict.fromkeys(NAMES, 4)


def test_a_layer_tied_to_a_fixed_one_is_fixed():
    assert plan_of(Restrictions(ties=(("q", "k"),), fixed={"k": 4})) == {"q": 4, "k": 4, "v": 8, "out": 8}


@pytest.mark.parametrize(
    ("restrictions", "message"),
    [
        (Restrictions(fixed={"ou": 4}), "no layer 'ou' to tie or fix, near are out"),
        (Restrictions(ties=(("q", "zzz"),)), "no layer 'zzz' to tie or fix, near are q, k, v"),
        (Restrictions(fixed={"q": 3}), r"'q' is fixed at 3 bits, the widths are \[2, 4, 8\]"),
        (Restrictions(fixed={"q": 2}, min_bits=4), "'q' is fixed at 2 bits, below the minimum of 4"),
        (Restrictions(fixed={"q": 8}, max_bits=4), "'q' is fixed at 8 bits, above the maximum of 4"),
        (Restrictions(min_bits=5, max_bits=7), r"none of the widths \[2, 4, 8\] lies between .* 5 .* 7 bits"),
        (
            Restrictions(ties=(("q", "k"), ("k", "v")), fixed={"q": 2, "v": 4}),
            "tied layers are fixed at several widths: 'q' at 2, 'v' at 4 bits",
        ),
    ],
)
def test_mistakes(restrictions, message):
    with pytest.raises(ValueError, match=message):
        plan_of(restrictions)


def test_all_mistakes_are_reported_together():
    with pytest.raises(ValueError, match="'ou' .*; layer 'q' is fixed at 3 bits"):
        plan_of(Restrictions(fixed={"ou": 4, "q": 3}))
