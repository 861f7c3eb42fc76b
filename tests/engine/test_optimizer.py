"""Two learning rates, and clipping of the whole model's gradient at once."""

import copy

import pytest
import torch
from torch import nn

from fisher_detr.engine.optimizer import build_optimizer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.head(self.backbone(x)))


def make_optimizer(model, **options):
    options = {"name": "ADAMW", "base_lr": 1e-2, "backbone_multiplier": 0.1, "weight_decay": 1e-3} | options
    return build_optimizer(model, **options)


def backward(model, factor=100.0):
    model.zero_grad()
    (factor * model(torch.ones(5, 3)).square().sum()).backward()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_backbone_has_its_own_rate_and_frozen_parameters_none(model):
    groups = make_optimizer(model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in model.backbone.parameters()} == {1e-3}
    assert {rates[id(p)] for p in model.head.parameters()} == {1e-2}
    assert not any(id(p) in rates for p in model.frozen.parameters())
    assert len(rates) == 4
    assert {group["weight_decay"] for group in groups} == {1e-3}


def test_frozen_backbone_leaves_one_group(model):
    model.backbone.requires_grad_(False)
    assert [group["lr"] for group in make_optimizer(model).param_groups] == [1e-2]


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
@pytest.mark.parametrize("factor", [100.0, 1e-6], ids=["above", "below"])
def test_clipping_equals_torch(model, name, factor):
    """Over both groups, before the step; a gradient below the limit is left alone."""
    reference = copy.deepcopy(model)
    clipped = make_optimizer(model, name=name, clip_norm=0.1)
    plain = make_optimizer(reference, name=name)
    for _ in range(3):
        backward(model, factor)
        backward(reference, factor)
        trainable = [p for p in reference.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(trainable, 0.1)
        assert bool(norm > 0.1) == (factor > 1)
        clipped.step()
        plain.step()
        for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_no_clipping_where_the_norm_is_zero(model):
    optimizer = make_optimizer(model, clip_norm=0.0)
    backward(model)
    before = model.head.weight.grad.clone()
    optimizer.step()
    assert torch.equal(model.head.weight.grad, before)


def test_momentum_reaches_sgd(model):
    assert make_optimizer(model, name="SGD", momentum=0.7).param_groups[0]["momentum"] == 0.7


def test_unknown_optimizer(model):
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is 'adam': expected 'ADAMW' or 'SGD'"):
        make_optimizer(model, name="adam")
