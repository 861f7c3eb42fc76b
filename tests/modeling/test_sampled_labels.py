import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fisher_detr.modeling import (
    LabelSampler,
    Predictions,
    SetCriterion,
    SigmoidClassification,
    SoftmaxClassification,
)
from fisher_detr.modeling.matcher import HungarianMatcher
from fisher_detr.modeling.sampled_labels import OwnMatcher

NOISE = 0.01


def predictions_of(logits, layers=1):
    logits = torch.as_tensor(logits, dtype=torch.float64)
    boxes = torch.full((len(logits), 4), 0.5, dtype=torch.float64)
    stacked = [x.expand(layers, 1, 1, *x.shape) for x in (logits, boxes)]
    return Predictions(*stacked)


def draws(head, logits, count):
    """Drawn categories of query 0 by number, n for none, over many images."""
    num_classes = logits.shape[-1] - (1 if isinstance(head, SoftmaxClassification) else 0)
    sampler = LabelSampler(head, num_classes, NOISE)
    counts = np.zeros(num_classes + 1)
    for image in range(count):
        targets, queries = sampler.draw(predictions_of(logits), {"image_id": image})
        counts[int(targets.classes[queries == 0]) if (queries == 0).any() else num_classes] += 1
    return counts / count


def test_softmax_categories_come_as_often_as_the_scores_say():
    shares = torch.tensor([[0.5, 0.2, 0.3]])
    found = draws(SoftmaxClassification(), shares.log(), 2000)
    np.testing.assert_allclose(found, shares[0], atol=4 * (0.25 / 2000) ** 0.5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.3, 0.1], [0.3, 0.1, 0.6]), ([0.9, 0.6], [0.6, 0.4, 0.0])],  # 0.9 / 1.5, 0.6 / 1.5
)
def test_sigmoid_categories_share_a_query(scores, expected):
    found = draws(SigmoidClassification(), torch.tensor([scores]).logit(), 2000)
    np.testing.assert_allclose(found, expected, atol=4 * (0.25 / 2000) ** 0.5)


def test_boxes_are_off_by_the_noise_on_average():
    sampler = LabelSampler(SoftmaxClassification(), 2, NOISE)
    targets, _ = sampler.draw(predictions_of(torch.tensor([[9.0, 0.0, -99.0]] * 4000)), {"image_id": 1})
    deviation = (targets.boxes - 0.5).abs()
    assert deviation.mean().item() == pytest.approx(
        NOISE, rel=0.05
    )  # Laplace: standard deviation sqrt(2) noise
    assert (targets.boxes - 0.5).std().item() == pytest.approx(2**0.5 * NOISE, rel=0.05)


def test_an_image_has_its_labels_whatever_comes_before():
    sampler = LabelSampler(SoftmaxClassification(), 3, NOISE, seed=5)
    predictions = predictions_of(torch.zeros(50, 4))
    first, queries = sampler.draw(predictions, {"image_id": 7})
    sampler.draw(predictions, {"image_id": 8})
    again, same = sampler.draw(predictions, {"image_id": 7})
    assert torch.equal(first.classes, again.classes) and torch.equal(queries, same)
    assert torch.equal(first.boxes, again.boxes)
    other, _ = LabelSampler(SoftmaxClassification(), 3, NOISE, seed=6).draw(predictions, {"image_id": 7})
    assert not torch.equal(first.classes, other.classes[: len(first.classes)])


def test_every_layer_is_compared_with_what_its_queries_have_drawn():
    """Cross entropy by hand; the Hungarian matching would pair otherwise."""
    torch.manual_seed(0)
    predictions = predictions_of(torch.randn(20, 4), layers=2)
    plain = SetCriterion(matcher=HungarianMatcher())
    targets, queries = LabelSampler(SoftmaxClassification(), 3, NOISE).draw(predictions, {"image_id": 3})
    criterion = plain.matching_by(OwnMatcher(plain.matcher, queries, 20))
    labels = torch.full((20,), 3)
    labels[queries] = targets.classes
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    expected = F.cross_entropy(predictions.logits[0, 0, 0], labels, weight)
    losses = criterion(predictions, [targets], across_ranks=False)
    torch.testing.assert_close(losses["loss_ce"], expected)
    torch.testing.assert_close(losses["loss_ce_0"], expected)
    boxes = (predictions.boxes[0, 0, 0][queries] - targets.boxes).abs().sum() * 5 / len(queries)
    torch.testing.assert_close(losses["loss_bbox"], boxes)
    assert not torch.isclose(plain(predictions, [targets], across_ranks=False)["loss_ce"], expected)


def test_no_query_draws_an_object():
    sampler = LabelSampler(SigmoidClassification(), 2, NOISE)
    predictions = predictions_of(torch.full((3, 2), -99.0))
    targets, queries = sampler.draw(predictions, {"image_id": 1})
    assert len(targets.classes) == len(queries) == 0 and targets.boxes.shape == (0, 4)
    plain = SetCriterion(matcher=HungarianMatcher(classification=SigmoidClassification()))
    criterion = plain.matching_by(OwnMatcher(plain.matcher, queries, 3))
    assert torch.isfinite(
        torch.stack(list(criterion(predictions, [targets], across_ranks=False).values()))
    ).all()


def test_true_fisher_of_a_softmax_in_closed_form():
    """One query, no boxes: by its logits `g = w_y (p - e_y) / w_y`, so `E[g g'] = diag(p) - p p'`."""
    logits = torch.tensor([[0.3, -0.4, 0.2]], dtype=torch.float64, requires_grad=True)
    plain = SetCriterion(matcher=HungarianMatcher(), l1_weight=0.0, giou_weight=0.0)
    sampler, total, count = LabelSampler(SoftmaxClassification(), 2, NOISE), 0, 3000
    for image in range(count):
        predictions = Predictions(logits[None, None, None], torch.full((1, 1, 1, 1, 4), 0.5).double())
        targets, queries = sampler.draw(predictions, {"image_id": image})
        criterion = plain.matching_by(OwnMatcher(plain.matcher, queries, 1))
        (gradient,) = torch.autograd.grad(
            criterion(predictions, [targets], across_ranks=False)["loss_ce"], logits
        )
        total += gradient.T @ gradient
    p = logits[0].softmax(-1).detach()
    torch.testing.assert_close(total / count, p.diag() - torch.outer(p, p), atol=0.02, rtol=0)
