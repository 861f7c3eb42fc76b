"""Gradients of every image from one batch, against autograd on one image at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisher_detr.fisher.weight_products import UncaughtWeightError, WeightProducts

IMAGES = 2


class Net(nn.Module):
    """Convolutions with ReLUs in place, a layer that runs twice, one whose input has the images second."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, stride=2, dilation=2, groups=2)
        self.embedding = nn.Embedding(5, 4)
        self.position = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)
        self.second = nn.Linear(4, 1)  # of the second objective alone

    def forward(self, x):
        y = F.relu_(self.grouped(F.relu_(self.stem(x)))).flatten(2).mT
        queries = self.position(self.embedding.weight.expand(len(x), -1, -1))
        attended = (queries @ y.mT).softmax(-1) @ y
        attended = self.twice(F.gelu(self.twice(attended)))
        states = torch.stack([attended, attended.sin(), 2 * attended])  # [L, B, Q, D]: images are second
        out = self.head(states)
        first = out.square().sum((0, 2, 3))
        return first, out.sin().sum((0, 2, 3)) + self.second(attended).square().sum((1, 2))


LAYERS = ("stem", "grouped", "position", "twice", "head", "unused", "second")


def make():
    torch.manual_seed(0)
    model = Net().double()
    return model, torch.randn(IMAGES, 3, 9, 8).double(), {n: getattr(model, n).weight for n in LAYERS}


def alone(model, images, weights):
    """`[image][objective][layer]`, None where an objective does not depend on the layer."""
    found = []
    for image in images:
        losses = model(image[None])
        options = {"retain_graph": True, "allow_unused": True}
        found.append([torch.autograd.grad(x.sum(), [*weights.values()], **options) for x in losses])
    return found


def collect(model, images, weights):
    products, seen = WeightProducts(weights, len(images)), {}
    with products:
        losses = model(images)

    def visit(layer, image, gradients):
        assert (layer, image) not in seen
        seen[layer, image] = gradients

    products.visit(losses, visit)
    return seen


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_equals_one_image_at_a_time(frozen):
    model, images, weights = make()
    expected = alone(model, images, weights)
    for weight in weights.values():
        weight.requires_grad_(not frozen)
    seen = collect(model, images, weights)
    assert {layer for layer, _ in seen} == set(LAYERS) - {"unused"}
    for (layer, image), found in seen.items():
        for objective, gradient in enumerate(found):
            reference = expected[image][objective][LAYERS.index(layer)]
            reference = torch.zeros_like(gradient) if reference is None else reference
            torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-14)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_constant_has_no_gradient():
    model, images, weights = make()
    products, seen = WeightProducts(weights, IMAGES), []
    with products:
        first, _ = model(images)
    products.visit([first, torch.zeros(IMAGES)], lambda layer, image, g: seen.append(g[1].abs().max()))
    assert seen and not any(seen)


def test_other_uses_of_a_weight_are_refused():
    weight = nn.Parameter(torch.randn(4, 4))
    with (
        WeightProducts({"layer": weight}, IMAGES),
        pytest.raises(UncaughtWeightError, match="weight of layer 'layer' takes part in matmul"),
    ):
        torch.matmul(torch.randn(IMAGES, 4), weight)


def test_inputs_without_images_are_refused():
    layer = nn.Linear(4, 4)
    with (
        WeightProducts({"layer": layer.weight}, IMAGES),
        pytest.raises(UncaughtWeightError, match=r"shape \(7, 4\), which has no dimension of the 2 images"),
    ):
        layer(torch.randn(7, 4))


def test_inputs_that_are_changed_afterwards_are_noticed():
    layer, x = nn.Linear(4, 4), torch.randn(IMAGES, 4)
    layer.weight.requires_grad_(False)
    products = WeightProducts({"layer": layer.weight}, IMAGES)
    with products:
        loss = layer(x).sum(1)
        x += 1
    with pytest.raises(RuntimeError, match="input of layer 'layer' was changed in place"):
        products.visit([loss], lambda *_: None)
