"""Detections from logits against loops over queries and classes."""

import math

import pytest
import torch

from fisher_detr.layers import select_detections

CLASSES, QUERIES = 4, 6


def make_logits(columns):
    return torch.randn(QUERIES, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive_softmax(logits):
    """(score, class, query) of every query's best class, best first."""
    found = []
    for q, row in enumerate(logits.tolist()):
        total = sum(math.exp(v) for v in row)
        found.append(max((math.exp(v) / total, c, q) for c, v in enumerate(row[:-1])))
    return sorted(found, reverse=True)


def naive_sigmoid(logits):
    """(score, class, query) of every pair, best first."""
    pairs = [
        (1 / (1 + math.exp(-v)), c, q) for q, row in enumerate(logits.tolist()) for c, v in enumerate(row)
    ]
    return sorted(pairs, reverse=True)


@pytest.mark.parametrize("top_k", [1, 3, QUERIES, 100])
@pytest.mark.parametrize(("columns", "naive"), [(CLASSES + 1, naive_softmax), (CLASSES, naive_sigmoid)])
def test_equals_a_loop(columns, naive, top_k):
    logits = make_logits(columns)
    scores, classes, queries = select_detections(logits, CLASSES, top_k)
    expected = naive(logits)[:top_k]
    assert len(scores) == len(expected)
    torch.testing.assert_close(scores, torch.tensor([s for s, _, _ in expected], dtype=torch.float64))
    assert list(zip(classes.tolist(), queries.tolist(), strict=True)) == [(c, q) for _, c, q in expected]


def test_no_object_lowers_the_scores_and_is_never_a_class():
    # exp(0) / (exp(0) + exp(0) + exp(log 6)) = 1 / 8
    logits = torch.tensor([[0.0, 0.0, math.log(6.0)]])
    scores, classes, _ = select_detections(logits, num_classes=2, top_k=5)
    torch.testing.assert_close(scores, torch.tensor([1 / 8]))
    assert classes.tolist() == [0]


def test_one_query_can_give_two_detections_with_a_sigmoid_head():
    logits = torch.tensor([[3.0, 2.0], [-5.0, -5.0]])
    _, classes, queries = select_detections(logits, num_classes=2, top_k=2)
    assert classes.tolist() == [0, 1]
    assert queries.tolist() == [0, 0]


@pytest.mark.parametrize("sign", [-1, 1])
def test_saturated_logits_give_scores_within_zero_and_one(sign):
    for columns in (CLASSES, CLASSES + 1):
        scores, _, _ = select_detections(sign * 1e4 * torch.eye(QUERIES)[:, :columns], CLASSES, 3)
        assert torch.isfinite(scores).all()
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("columns", [CLASSES - 1, CLASSES + 2])
def test_other_columns_are_an_error(columns):
    with pytest.raises(ValueError, match=rf"logits have {columns} columns: expected 4 \(sigmoid.* or 5"):
        select_detections(make_logits(columns), CLASSES, 3)
