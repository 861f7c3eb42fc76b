"""Objectives of detectors as one scalar, and re-weighting."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm

from fisher_detr.engine.objectives import CriticalTerm, DetrObjective
from fisher_detr.structures import CategorySet
from tests.modeling.detectors import NUM_CLASSES, SMALL_BACKBONE, VARIANTS, make_cfg, make_input

PEOPLE = CategorySet("people", (0, 2), NUM_CLASSES)
BATCH = [make_input(64, 96, 3, seed=0), make_input(48, 80, 2, seed=1)]


def make_model(variant="detr"):
    torch.manual_seed(0)
    return build_model(make_cfg(VARIANTS[variant].settings | SMALL_BACKBONE, QUERY_GROUPS=2, DROPOUT=0.5))


@pytest.mark.parametrize("variant", ["detr", "dab", "deformable"])
@pytest.mark.parametrize("chosen", [None, PEOPLE], ids=["overall", "critical"])
def test_objective_is_the_sum_of_the_losses_in_eval_mode(variant, chosen):
    model = make_model(variant)
    expected = sum(model.eval().losses(BATCH, chosen).values())
    found = DetrObjective(chosen)(model.train(), BATCH)
    torch.testing.assert_close(found, expected)
    assert all(module.training for module in model.modules()), "the mode of the training is restored"


def test_objective_of_one_rank_alone(monkeypatch):
    """Otherwise the objects of an image would be averaged with those of another rank's."""
    model = make_model()
    expected = DetrObjective(PEOPLE)(model, BATCH)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(100))
    torch.testing.assert_close(DetrObjective(PEOPLE)(model, BATCH), expected)
    assert DetrObjective(PEOPLE, across_ranks=True)(model, BATCH) < 0.9 * expected


def test_matching_is_repeated():
    model, objective = make_model(), DetrObjective(PEOPLE)
    with objective.repeating(model) as rewind:
        first = objective(model, BATCH)
        rewind()
        assert torch.equal(objective(model, BATCH), first)
        with pytest.raises(RuntimeError, match="matcher that repeats 1 matchings"):
            objective(model, BATCH)


def test_critical_term_is_the_weighted_critical_loss():
    """Of the predictions of the training: all groups, and dropout as it fell."""
    model = make_model().train()
    model.more_losses.append(CriticalTerm(model, PEOPLE, 0.3))
    torch.manual_seed(1)
    losses = model(BATCH)
    torch.manual_seed(1)
    expected = 0.3 * sum(model.losses(BATCH, PEOPLE).values())
    torch.testing.assert_close(losses["loss_critical"], expected)
    assert losses["loss_critical"].requires_grad
