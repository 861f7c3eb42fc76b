"""The matcher against every assignment tried, and at the edges."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fisher_detr.modeling import HungarianMatcher, Predictions
from tests.modeling.set_problems import as_lists, random_problem
from tests.oracles import naive_set_loss


def as_rows(matching):
    columns = (matching.layer, matching.image, matching.group, matching.query, matching.target)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize(
    "counts", [[3], [2, 0, 4], [0], [0, 0], [6], [1, 5]], ids=lambda c: "-".join(map(str, c))
)
def test_equals_brute_force(counts):
    """Several layers, groups and images; empty images; more objects than the four queries."""
    predictions, targets = random_problem(counts)
    expected = naive_set_loss.matching(predictions.logits, predictions.boxes, as_lists(targets))
    assert as_rows(HungarianMatcher()(predictions, targets)) == expected


@pytest.mark.parametrize("weights", [(2.0, 0.01, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 3.0), (2.0, 5.0, 2.0)])
def test_weights_of_the_costs(weights):
    predictions, targets = random_problem([3, 2], seed=1)
    matcher = HungarianMatcher(class_cost=weights[0], l1_cost=weights[1], giou_cost=weights[2])
    expected = naive_set_loss.matching(predictions.logits, predictions.boxes, as_lists(targets), weights)
    assert as_rows(matcher(predictions, targets)) == expected


def test_equals_scipy_on_a_problem_of_usual_size():
    predictions, targets = random_problem([30], layers=1, groups=1, queries=100, seed=2)
    logits, boxes = predictions.logits[0, 0, 0].tolist(), predictions.boxes[0, 0, 0].tolist()
    (classes, objects), *_ = as_lists(targets)
    cost = np.array(naive_set_loss.cost_matrix(logits, boxes, classes, objects))
    found = HungarianMatcher()(predictions, targets)
    expected = linear_sum_assignment(cost)
    assert found.query.tolist() == expected[0].tolist()
    assert found.target.tolist() == expected[1].tolist()


def test_pairs_are_one_to_one():
    predictions, targets = random_problem([3, 0, 6], layers=3, groups=2, queries=4)
    rows = as_rows(HungarianMatcher()(predictions, targets))
    assert len(rows) == 3 * 2 * (3 + 0 + 4)
    assert len({row[:4] for row in rows}) == len(rows)
    assert len({(*row[:3], row[4]) for row in rows}) == len(rows)
    assert all(target < 3 for _, image, _, _, target in rows if image == 0)
    assert all(3 <= target < 9 for _, image, _, _, target in rows if image == 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["logits", "boxes"])
def test_broken_predictions_are_matched_all_the_same(field, value):
    """A diverged model must reach the trainer's report of the loss, not die in the matcher."""
    predictions, targets = random_problem([3, 1])
    getattr(predictions, field)[0, 0, 0, :2] = value
    rows = as_rows(HungarianMatcher()(predictions, targets))
    assert len(rows) == 2 * 2 * (3 + 1)
    assert len({(*row[:3], row[4]) for row in rows}) == len(rows)


def test_one_copy_to_the_host_for_each_call(monkeypatch):
    copies = []
    for name in ("cpu", "item", "tolist", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(tensor, *args, _name=name, _original=original, **kwargs):
            copies.append(_name)
            return _original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    matcher = HungarianMatcher()
    predictions, targets = random_problem([3, 0, 2, 5], layers=6, groups=3)
    matcher(predictions, targets)
    assert copies == ["cpu"]


def test_no_gradient_and_no_change_of_the_inputs():
    predictions, targets = random_problem([3])
    before = predictions.logits.clone()
    matching = HungarianMatcher()(
        Predictions(predictions.logits.requires_grad_(), predictions.boxes.requires_grad_()), targets
    )
    assert not any(column.requires_grad for column in vars(matching).values())
    assert torch.equal(predictions.logits, before)


def test_all_costs_zero_is_an_error():
    with pytest.raises(ValueError, match="all matching costs are 0"):
        HungarianMatcher(class_cost=0, l1_cost=0, giou_cost=0)


def test_matchings_are_repeated_in_their_order():
    """What was matched first is given again, whatever the predictions are by then."""
    matcher = HungarianMatcher()
    problems = [random_problem([3, 1], seed=1), random_problem([2], seed=2)]
    others = [random_problem([3, 1], seed=3), random_problem([2], seed=4)]
    assert as_rows(matcher(*problems[0])) != as_rows(matcher(*others[0]))
    with matcher.repeating() as rewind:
        first = [matcher(*problem) for problem in problems]
        for _ in range(2):
            rewind()
            assert all(matcher(*other) is one for other, one in zip(others, first, strict=True))
    assert [as_rows(one) for one in first] == [as_rows(matcher(*problem)) for problem in problems]
    assert as_rows(matcher(*others[0])) != as_rows(first[0])  # afterwards it matches again


def test_repeated_matchings_ask_for_no_costs(monkeypatch):
    matcher = HungarianMatcher()
    calls, match = [], matcher.match
    monkeypatch.setattr(matcher, "match", lambda *problem: calls.append(problem) or match(*problem))
    with matcher.repeating() as rewind:
        matcher(*random_problem([3]))
        rewind()
        matcher(*random_problem([3]))
    assert len(calls) == 1


def test_more_matchings_than_were_remembered():
    matcher = HungarianMatcher()
    with matcher.repeating() as rewind:
        matcher(*random_problem([3]))
        rewind()
        matcher(*random_problem([3]))
        with pytest.raises(RuntimeError, match="call 1 of a matcher that repeats 1 matchings: both evalu"):
            matcher(*random_problem([3]))


def test_memory_ends_with_an_error():
    matcher = HungarianMatcher()
    with pytest.raises(ZeroDivisionError), matcher.repeating():
        matcher(*random_problem([3], seed=1))
        raise ZeroDivisionError
    assert as_rows(matcher(*random_problem([3], seed=2))) == as_rows(matcher(*random_problem([3], seed=2)))
