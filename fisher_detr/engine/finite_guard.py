"""Stops a training whose loss is NaN or infinite, and names the layer where that began."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn


class FiniteGuard:
    """Forward hook of a model that looks at its losses, all at once: each look would make a GPU wait.

    Nothing else is done in a sound step. At a loss that is not finite the parameters are looked at and the
    batch is run a second time, through layers that are watched.
    """

    def __init__(self, network: Callable[[nn.Module, Any], Any]):
        """Build.

        Args:
            network: runs the layers of the model on a batch. It exchanges nothing with other ranks, which may
                be elsewhere by then.
        """
        self._network = network

    def __call__(self, model: nn.Module, inputs: tuple, outputs: Any) -> None:
        """Look at what the model gives.

        Raises:
            FloatingPointError: names the losses, the iteration and the layer.
        """
        if not isinstance(outputs, dict) or torch.stack([*outputs.values()]).isfinite().all():
            return
        broken = [f"{name} = {value.item():g}" for name, value in outputs.items() if not value.isfinite()]
        raise FloatingPointError(
            f"loss became NaN or infinite at iteration {get_event_storage().iter}: {', '.join(broken)}; "
            f"{origin(model, lambda: self._network(model, *inputs))}; "
            "lower SOLVER.BASE_LR, clip gradients, or look at the images of this iteration"
        )


def origin(model: nn.Module, run: Callable[[], Any]) -> str:
    """Where the first number of a model is that is not finite, in words.

    Args:
        model: its parameters are looked at first.
        run: a pass through its layers.
    """
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return f"parameter {broken[0]}{more} became so in an earlier step"
    return first_broken_layer(model, run) or (
        "the layers gave finite numbers when the batch was run again: it began in the loss"
    )


def first_broken_layer(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """Run the layers once and name the first whose input or output is not finite; None: there is none.

    Inputs are looked at too: something between two layers may have made them, and the output of a quantizer
    does not tell.
    """
    try:
        with _watched(model), torch.no_grad():
            run()
    except _BrokenLayer as found:
        return str(found)
    return None


class _BrokenLayer(Exception):
    """Ends a pass at the layer that it names."""


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    with contextlib.ExitStack() as handles:
        for path, module in model.named_modules():
            name = f"{path or 'the model'} ({type(module).__name__})"
            before = module.register_forward_pre_hook(_looks_at_input(name), with_kwargs=True)
            after = module.register_forward_hook(_looks_at_output(name))
            handles.callback(before.remove)
            handles.callback(after.remove)
        yield


def _looks_at_input(name: str) -> Callable:
    def look(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not all_finite((args, kwargs)):
            raise _BrokenLayer(f"it began in what goes into {name}")

    return look


def _looks_at_output(name: str) -> Callable:
    def look(_module: nn.Module, _args: tuple, output: Any) -> None:
        if not all_finite(output):
            raise _BrokenLayer(f"it began in {name}")

    return look


def all_finite(value: Any) -> bool:
    """Whether all numbers are in the tensors that nested containers hold."""
    return all(tensor.isfinite().all() for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, dataclasses and Detectron2's lists of images."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors([*value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif hasattr(value, "tensor"):
        yield from _tensors(value.tensor)
