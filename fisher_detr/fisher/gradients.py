"""Gradients of every image of a batch, of several objectives from one forward pass, layer by layer."""

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fisher_detr.fisher.weight_products import Product, Visitor, WeightProducts

# Images of a batch -> losses by objective, `[B]` each: of every image alone.
LossFn = Callable[[Sequence[Any]], Mapping[str, Tensor]]
# Losses of a batch -> positions of the images to differentiate.
Select = Callable[[Mapping[str, Tensor]], Sequence[int]]


class GradientMethod(enum.StrEnum):
    """How the gradients of the images of a batch are told apart."""

    BATCHED = "batched"  # multiplied from what goes into a layer and what comes back
    SINGLE = "single"  # by autograd, from batches of one image: any operator


def image_gradients(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batch: Sequence[Any],
    visitor: Visitor,
    method: GradientMethod = GradientMethod.BATCHED,
    select: Select | None = None,
    of_products: Callable[[str, Sequence[Product], Sequence[int]], None] | None = None,
) -> dict[str, Tensor]:
    """Differentiate every objective on every image of a batch: one forward pass.

    Frozen weights (`requires_grad` False) take part and are as before afterwards. Nothing is left in `.grad`.

    Args:
        loss_fn: maps the batch to losses by objective, `[B]` each. The loss of an image must not depend on
            the other images: a model in eval mode (no dropout, no batch statistics).
        parameters: weights by layer name; leaf tensors, each listed once.
        batch: B images; one image for the method SINGLE.
        visitor: called with layer, position of the image in the batch, and its gradients of the O objectives
            `[O, *weight.shape]`; not for a layer on which no objective depends.
        method: how the images are told apart.
        select: chooses the images to differentiate; None: all.
        of_products: called with each such layer, the products of its weight and the chosen images; not with
            the method SINGLE, which knows no products.

    Returns:
        The losses, detached.

    Raises:
        UncaughtWeightError: a weight is used in a way that BATCHED does not see.
        ValueError: a loss has another shape.
    """
    if method is GradientMethod.SINGLE and len(batch) != 1:
        raise ValueError(f"a batch of {len(batch)} images: the method single takes one at a time")
    products = WeightProducts(parameters, len(batch)) if method is GradientMethod.BATCHED else None
    with torch.enable_grad(), requiring_grad(parameters, products is None):
        with products or contextlib.nullcontext():
            losses = loss_fn(batch)
        check_losses(losses, len(batch))
        images = list(range(len(batch)) if select is None else select(losses))
        chosen = [loss[images] for loss in losses.values()]
        if products is None and images:
            _visit_one(chosen, parameters, visitor)
        elif images:
            products.visit(
                chosen, _only(images, visitor), of_products and (lambda *args: of_products(*args, images))
            )
    return {objective: loss.detach() for objective, loss in losses.items()}


def check_losses(losses: Mapping[str, Tensor], num_images: int) -> None:
    """Raise ValueError unless there are objectives with one loss for each image."""
    if not losses:
        raise ValueError("the loss callable gives no objectives: expected losses by name")
    for objective, loss in losses.items():
        if tuple(loss.shape) != (num_images,):
            raise ValueError(
                f"loss {objective!r} of a batch of {num_images} has shape {tuple(loss.shape)}, expected "
                f"({num_images},): one loss for each image"
            )


def check_parameters(parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless they are leaf tensors, and each is there once."""
    if not parameters:
        raise ValueError("no parameters: name the weights of at least one layer")
    names: dict[tuple, str] = {}
    for name, weight in parameters.items():
        if not weight.is_leaf:
            raise ValueError(f"weight {name!r} is computed from other tensors: give those, its leaves")
        first = names.setdefault((weight.device, weight.data_ptr()), name)
        if first != name:
            raise ValueError(f"weights {first!r} and {name!r} are one tensor: list it once")


def _visit_one(losses: Sequence[Tensor], parameters: Mapping[str, Tensor], visitor: Visitor) -> None:
    gradients = [_differentiate(loss.sum(), parameters) for loss in losses]
    for layer, parts in zip(parameters, zip(*gradients, strict=True), strict=True):
        visitor(layer, 0, torch.stack(parts))


def _differentiate(loss: Tensor, parameters: Mapping[str, Tensor]) -> Sequence[Tensor]:
    if not loss.requires_grad:  # a constant, such as the loss of nothing
        return [torch.zeros_like(weight) for weight in parameters.values()]
    return torch.autograd.grad(loss, [*parameters.values()], retain_graph=True, materialize_grads=True)


def _only(images: Sequence[int], visitor: Visitor) -> Visitor:
    def visit(layer: str, image: int, gradients: Tensor) -> None:
        if image in images:
            visitor(layer, image, gradients)

    return visit


@contextlib.contextmanager
def requiring_grad(parameters: Mapping[str, Tensor], wanted: bool) -> Iterator[None]:
    """Frozen weights, such as a backbone's first stages, take part; BATCHED needs no weight to require it."""
    changed = [weight for weight in parameters.values() if weight.requires_grad != wanted]
    for weight in changed:
        weight.requires_grad_(wanted)
    try:
        yield
    finally:
        for weight in changed:
            weight.requires_grad_(not wanted)
