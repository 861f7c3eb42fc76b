"""Objects of a critical set count more: what the loss is by hand, and that a factor of 1 changes nothing."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from fisher_detr.modeling import (
    Predictions,
    Reweighted,
    SetCriterion,
    SigmoidClassification,
    SoftmaxClassification,
    Targets,
)
from fisher_detr.modeling.matcher import HungarianMatcher
from fisher_detr.structures import CategorySet

CRITICAL = CategorySet("critical", (1, 2), 3)
FACTOR = 4.0


def problem(head, layers=2):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(layers, 2, 1, 6, head.num_logits(3), dtype=torch.float64, generator=generator)
    boxes = torch.rand(layers, 2, 1, 6, 4, dtype=torch.float64, generator=generator)
    targets = [
        Targets(torch.tensor([0, 2]), torch.rand(2, 4, dtype=torch.float64, generator=generator)),
        Targets(torch.tensor([1]), torch.rand(1, 4, dtype=torch.float64, generator=generator)),
    ]
    criterion = SetCriterion(matcher=HungarianMatcher(classification=head))
    return criterion, Predictions(logits, boxes), targets


def total(losses):
    return torch.stack([*losses.values()]).sum()


@pytest.mark.parametrize("head", [SoftmaxClassification(), SigmoidClassification()])
def test_a_factor_of_one_changes_nothing(head):
    criterion, predictions, targets = problem(head)
    factors = Reweighted(CRITICAL, 1.0).factors(targets)
    expected, found = criterion(predictions, targets), criterion(predictions, targets, factors=factors)
    assert all(torch.equal(found[name], loss) for name, loss in expected.items())


def test_factors_are_those_of_the_critical_objects():
    _, _, targets = problem(SoftmaxClassification())
    assert Reweighted(CRITICAL, FACTOR).factors(targets).tolist() == [1.0, FACTOR, FACTOR]
    empty = [Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))]
    assert Reweighted(CRITICAL, FACTOR).factors(empty).shape == (0,)


@pytest.mark.parametrize("head", [SoftmaxClassification(), SigmoidClassification()])
def test_terms_of_critical_objects_by_hand(head):
    """What is added is FACTOR - 1 times their terms, divided as before."""
    criterion, predictions, targets = problem(head, layers=1)
    factors = Reweighted(CRITICAL, FACTOR).factors(targets)
    before, after = criterion(predictions, targets), criterion(predictions, targets, factors=factors)
    matching = criterion.matcher(predictions, targets)
    classes = torch.cat([t.classes for t in targets])
    boxes = torch.cat([t.boxes for t in targets])
    added = {"loss_ce": 0.0, "loss_bbox": 0.0}
    for image, query, target in zip(matching.image, matching.query, matching.target, strict=True):
        if classes[target] == 0:
            continue
        logits = predictions.logits[0, image, 0, query]
        if isinstance(head, SoftmaxClassification):
            total_weight = 3 + 9 * 0.1  # 3 matched queries of 12
            added["loss_ce"] += F.cross_entropy(logits, classes[target]) / total_weight
        else:
            wanted = F.one_hot(classes[target], 3).double()
            added["loss_ce"] += sigmoid_focal_loss(logits, wanted).sum() / 3
        added["loss_bbox"] += 5 * (predictions.boxes[0, image, 0, query] - boxes[target]).abs().sum() / 3
    for name, expected in added.items():
        torch.testing.assert_close(after[name] - before[name], (FACTOR - 1) * expected)
    assert total(after) > total(before)
