"""The losses and costs of class heads by plain numbers."""

import math

import pytest
import torch

from fisher_detr.modeling import SigmoidClassification, SoftmaxClassification


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def focal(logit, positive, alpha=0.25, gamma=2.0):
    """-alpha (1 - p)^gamma log p of a positive, -(1 - alpha) p^gamma log(1 - p) of a negative."""
    p = sigmoid(logit)
    if positive:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def random_logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0)])
def test_focal_loss(alpha, gamma):
    """Summed over queries, groups and categories, for each object and group."""
    logits = random_logits(2, 3, 2, 4, 5)
    labels = torch.randint(0, 6, (2, 3, 2, 4), generator=torch.Generator().manual_seed(1))  # 5: no object
    found = SigmoidClassification(alpha, gamma).loss(logits, labels, torch.tensor(7.0))
    for layer in range(2):
        total = sum(
            focal(float(logits[layer, b, g, q, c]), int(labels[layer, b, g, q]) == c, alpha, gamma)
            for b in range(3)
            for g in range(2)
            for q in range(4)
            for c in range(5)
        )
        assert float(found[layer]) == pytest.approx(total / (2 * 7), abs=1e-12)


def test_focal_cost():
    """What a query costs as the object's class less what it costs as none."""
    logits, classes = random_logits(4, 5), torch.tensor([0, 3, 3])
    found = SigmoidClassification().cost(logits, classes)
    for query in range(4):
        for n, c in enumerate(classes.tolist()):
            logit = float(logits[query, c])
            expected = focal(logit, True) - focal(logit, False)
            assert float(found[query, n]) == pytest.approx(expected, abs=1e-12)


def test_softmax_cost():
    logits, classes = random_logits(4, 6), torch.tensor([0, 3])
    found = SoftmaxClassification().cost(logits, classes)
    for query in range(4):
        exponentials = [math.exp(v) for v in logits[query].tolist()]
        for n, c in enumerate(classes.tolist()):
            assert float(found[query, n]) == pytest.approx(-exponentials[c] / sum(exponentials), abs=1e-12)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("classification", [SoftmaxClassification(), SigmoidClassification()])
def test_saturated_logits_have_finite_losses_costs_and_gradients(classification, sign):
    logits = torch.full((1, 1, 1, 3, classification.num_logits(4)), sign * 1e4, requires_grad=True)
    labels = torch.tensor([[[[0, 4, 1]]]])
    loss = classification.loss(logits, labels, torch.tensor(1.0)).sum()
    cost = classification.cost(logits.flatten(0, -2), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert all(torch.isfinite(x).all() for x in (loss, cost, gradient))


def test_no_objects():
    classification = SigmoidClassification()
    assert classification.cost(random_logits(4, 5), torch.zeros(0, dtype=torch.int64)).shape == (4, 0)
    labels = torch.full((1, 1, 1, 2), 5)
    assert float(classification.loss(random_logits(1, 1, 1, 2, 5), labels, torch.tensor(1.0))) > 0


def test_heads():
    assert SoftmaxClassification().num_logits(80) == 81
    assert SoftmaxClassification().bias() is None
    assert SigmoidClassification().num_logits(80) == 80
    assert sigmoid(SigmoidClassification(prior=0.02).bias()) == pytest.approx(0.02)
