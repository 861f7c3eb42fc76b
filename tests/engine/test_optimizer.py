"""Learning rates and weight decay by group, and clipping of the whole model's gradient at once."""

import copy

import pytest
import torch
from torch import nn

from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.head(self.backbone(x)))


def make_optimizer(model, **options):
    groups = options.pop("groups", ParameterGroups(backbone=0.1, weight_decay=1e-3))
    return build_optimizer(model, groups, **({"name": "ADAMW", "base_lr": 1e-2} | options))


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


class Sampler(nn.Module):
    """Names as in Deformable DETR, a norm of every kind, and one tensor under two names."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.sampling_offsets = nn.Linear(4, 4)
        self.reference_points = nn.Linear(4, 2)
        self.head = nn.Linear(4, 4)
        self.alias = self.head
        self.norm = nn.LayerNorm(4)
        self.group_norm = nn.GroupNorm(2, 4)


def settings_of(groups):
    model = Sampler()
    optimizer = make_optimizer(model, groups=groups)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    return {name: found[id(p)] for name, p in model.named_parameters()}


def test_sampling_offsets_and_reference_points_have_their_own_rate():
    found = settings_of(ParameterGroups(backbone=0.1, sampling=0.2, weight_decay=1e-3))
    rates = {name: lr for name, (lr, _) in found.items()}
    assert rates["backbone.0.weight"] == rates["backbone.1.bias"] == pytest.approx(1e-3)
    assert rates["sampling_offsets.weight"] == rates["reference_points.bias"] == pytest.approx(2e-3)
    assert rates["head.weight"] == rates["norm.weight"] == pytest.approx(1e-2)
    assert {decay for _, decay in found.values()} == {1e-3}


def test_weight_decay_of_norms_and_biases():
    found = settings_of(ParameterGroups(weight_decay=1e-3, norm_decay=0.0, bias_decay=1e-4))
    decays = {name: decay for name, (_, decay) in found.items()}
    norms = ("backbone.1.", "norm.", "group_norm.")
    assert {decay for name, decay in decays.items() if name.startswith(norms)} == {0.0}
    assert decays["head.bias"] == decays["backbone.0.bias"] == 1e-4
    assert decays["head.weight"] == decays["backbone.0.weight"] == 1e-3


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


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_clipping_under_mixed_precision(model, name):
    """The scaler's factor is out of the gradients before they are clipped."""
    reference = copy.deepcopy(model)
    scaled, plain = (make_optimizer(m, name=name, clip_norm=0.1) for m in (model, reference))
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    for _ in range(2):
        for m, optimizer, scale in ((model, scaled, scaler.scale), (reference, plain, lambda x: x)):
            optimizer.zero_grad()
            scale(100 * m(torch.ones(5, 3)).square().sum()).backward()
        scaler.step(scaled)
        scaler.update()
        plain.step()
    for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


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
