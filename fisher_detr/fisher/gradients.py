"""Per-image gradients of several objectives from one forward pass."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisher_detr.fisher.statistics import inner_products

LossFn = Callable[[Any], Mapping[str, Tensor]]
# Objective -> layer -> gradient of the shape of the layer's weight.
Gradients = dict[str, dict[str, Tensor]]


def image_gradients(
    loss_fn: LossFn, parameters: Mapping[str, Tensor], samples: Iterable[Any], progress: bool = True
) -> Iterator[tuple[str, Gradients]]:
    """Differentiate every objective on one image at a time: one forward, one backward for each objective.

    The gradients of one image are freed before the next. Weights that are frozen (`requires_grad` False) take
    part and are as before afterwards. A weight that an objective does not depend on has gradient zero.

    Args:
        loss_fn: maps a sample (one image) to scalar losses by objective, the same objectives for every image.
            It must depend on that image alone: a model in eval mode (no dropout, no batch statistics).
        parameters: weights by layer name; leaf tensors, each listed once.
        samples: the images.
        progress: show a progress bar, on a terminal.

    Yields:
        What to call the image in messages, and its gradients.

    Raises:
        ValueError: no samples, an aliased weight, or a loss that is not a finite scalar.
    """
    _check_parameters(parameters)
    objectives: tuple[str, ...] = ()
    constant: set[str] = set()
    with _requiring_grad(parameters):
        images = tqdm(samples, desc="Fisher information", unit="image", disable=None if progress else True)
        for index, sample in enumerate(images):
            image = describe_sample(index, sample)
            with torch.enable_grad():  # not around the loop: the caller's code runs between images
                losses = loss_fn(sample)
            objectives = objectives or tuple(losses)
            _check_losses(losses, objectives, image)
            unreached = {objective for objective, loss in losses.items() if not loss.requires_grad}
            constant = unreached if index == 0 else constant & unreached
            yield image, _differentiate(losses, parameters)
    if not objectives:
        raise ValueError("no samples: the Fisher information needs at least one image")
    if constant:
        hint = "they were computed under torch.no_grad() or depend on no weight"
        raise ValueError(f"losses {sorted(constant)} have no gradient on any image: {hint}")


def describe_sample(index: int, sample: Any) -> str:
    """Name an image in a message: its position and, for Detectron2's dictionaries, its id."""
    if isinstance(sample, list | tuple) and len(sample) == 1:
        sample = sample[0]
    if isinstance(sample, Mapping) and "image_id" in sample:
        return f"image {index} (image_id {sample['image_id']})"
    return f"image {index}"


def checked_inner_products(gradients: Gradients, image: str) -> np.ndarray:
    """Inner products of one image's gradients, `[L, O, O]` (see `inner_products`).

    Raises:
        ValueError: a gradient is not finite; names the objective, the image and the layer.
    """
    products = inner_products(gradients)
    for position, objective in enumerate(gradients):
        broken = ~np.isfinite(products[:, position, position])
        if broken.any():
            layer = list(gradients[objective])[int(broken.argmax())]
            raise ValueError(
                f"gradient of loss {objective!r} on {image} is not finite in layer {layer!r}: "
                "check the image, its labels and the checkpoint"
            )
    return products


def _differentiate(losses: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Gradients:
    weights = tuple(parameters.values())
    gradients: Gradients = {}
    for position, (objective, loss) in enumerate(losses.items(), start=1):
        if not loss.requires_grad:  # a constant, such as the loss of nothing
            gradients[objective] = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
            continue
        values = torch.autograd.grad(
            loss, weights, retain_graph=position < len(losses), materialize_grads=True
        )
        gradients[objective] = dict(zip(parameters, values, strict=True))
    return gradients


def _check_parameters(parameters: Mapping[str, Tensor]) -> None:
    if not parameters:
        raise ValueError("no parameters: name the weights of at least one layer")
    names: dict[tuple, str] = {}
    for name, weight in parameters.items():
        if not weight.is_leaf:
            raise ValueError(f"weight {name!r} is computed from other tensors: give those, its leaves")
        first = names.setdefault((weight.device, weight.data_ptr()), name)
        if first != name:
            raise ValueError(f"weights {first!r} and {name!r} are one tensor: list it once")


def _check_losses(losses: Mapping[str, Tensor], objectives: tuple[str, ...], image: str) -> None:
    if tuple(losses) != objectives or not losses:
        raise ValueError(
            f"{image} has objectives {list(losses)}, expected {list(objectives)}: the same on every image"
        )
    for objective, loss in losses.items():
        if loss.ndim != 0:
            shape = tuple(loss.shape)
            raise ValueError(f"loss {objective!r} of {image} has shape {shape}: expected a scalar")
        if not torch.isfinite(loss):
            hint = "check the image, its labels and the checkpoint"
            raise ValueError(f"loss {objective!r} of {image} is {loss.item()}: {hint}")


@contextlib.contextmanager
def _requiring_grad(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Let frozen weights, such as the first stages of a backbone, take part."""
    frozen = [weight for weight in parameters.values() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
