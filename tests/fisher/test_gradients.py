import gc

import pytest
import torch
from torch import nn

from fisher_detr.fisher import GradientMethod, image_gradients
from fisher_detr.fisher.weight_products import WeightProducts
from tests.oracles.naive_fisher import image_gradients as naive_gradients

SINGLE, BATCHED = GradientMethod.SINGLE, GradientMethod.BATCHED


def collect(loss_fn, parameters, batch, method, select=None):
    seen = {}

    def visit(layer, image, gradients):
        assert (layer, image) not in seen
        seen[layer, image] = gradients

    losses = image_gradients(loss_fn, parameters, batch, visit, method, select)
    return losses, seen


@pytest.fixture
def weight():
    return nn.Parameter(torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_a_batch_equals_its_images_alone(toy, frozen):
    expected = naive_gradients(toy.loss_alone, toy.parameters, toy.samples)
    for weight in toy.parameters.values():
        weight.requires_grad_(not frozen)
    with torch.no_grad():
        losses, seen = collect(toy.loss, toy.parameters, toy.samples, BATCHED)
    assert {layer for layer, _ in seen} == set(toy.parameters) - {"unused"}
    for (layer, image), found in seen.items():
        reference = torch.stack([expected[objective][layer][image] for objective in toy.objectives])
        torch.testing.assert_close(found.flatten(1), reference, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(losses["overall"], toy.loss(toy.samples)["overall"].detach())
    assert all(weight.requires_grad != frozen and weight.grad is None for weight in toy.parameters.values())


def test_both_methods_agree_on_one_image(toy):
    _, batched = collect(toy.loss, toy.parameters, toy.samples[:1], BATCHED)
    _, single = collect(toy.loss, toy.parameters, toy.samples[:1], SINGLE)
    for key, found in batched.items():
        torch.testing.assert_close(found, single[key], rtol=1e-12, atol=1e-16)
    assert not single["unused", 0].any()


def test_chosen_images_only(toy):
    _, every = collect(toy.loss, toy.parameters, toy.samples, BATCHED)
    _, some = collect(toy.loss, toy.parameters, toy.samples, BATCHED, lambda losses: [1, 4])
    assert {image for _, image in some} == {1, 4}
    for key, found in some.items():
        torch.testing.assert_close(found, every[key], rtol=1e-12, atol=1e-16)
    assert collect(toy.loss, toy.parameters, toy.samples, BATCHED, lambda losses: [])[1] == {}


def test_single_gives_every_objective_of_any_operator(weight):
    losses, seen = collect(
        lambda _: {"a": weight.sum()[None], "b": 3 * weight[:1]}, {"w": weight}, [0], SINGLE
    )
    assert seen["w", 0].tolist() == [[1.0, 1.0], [3.0, 0.0]]
    assert {name: loss.tolist() for name, loss in losses.items()} == {"a": [3.0], "b": [3.0]}
    assert weight.grad is None


def test_single_takes_constants_and_frozen_weights(weight):
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    parameters = {"f": frozen, "w": weight}
    _, seen = collect(lambda _: {"a": (frozen @ weight)[None], "b": torch.zeros(1)}, parameters, [0], SINGLE)
    assert seen["f", 0].tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert not frozen.requires_grad
    assert weight.requires_grad


def test_frozen_weights_stay_frozen_after_an_error():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(ValueError, match="shape"):
        collect(lambda _: {"a": frozen.sum()}, {"f": frozen}, [0], SINGLE)
    assert not frozen.requires_grad


@pytest.mark.parametrize(
    "losses, message",
    [
        ({"a": torch.zeros(3)}, r"'a' of a batch of 2 has shape \(3,\), expected \(2,\): one loss for each"),
        ({"a": torch.zeros(())}, r"shape \(\)"),
        ({}, "gives no objectives"),
    ],
)
def test_bad_losses(weight, losses, message):
    with pytest.raises(ValueError, match=message):
        collect(lambda _: losses, {"w": weight}, [0, 1], BATCHED)


def test_single_takes_one_image(weight):
    with pytest.raises(ValueError, match="a batch of 2 images: the method single takes one at a time"):
        collect(lambda _: {}, {"w": weight}, [0, 1], SINGLE)


def test_nothing_is_left_of_a_batch(toy):
    """The graph and what watches it would keep each other alive, where no garbage collector looks."""

    def alive():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor | WeightProducts) for thing in gc.get_objects())

    visit = {"visitor": lambda *_: None, "of_products": lambda *_: None}
    image_gradients(toy.loss, toy.parameters, toy.batches[0], **visit)
    before = alive()
    for _ in range(3):
        image_gradients(toy.loss, toy.parameters, toy.batches[0], **visit)
    assert alive() == before
