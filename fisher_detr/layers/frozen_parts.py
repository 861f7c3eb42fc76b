"""Parts of a model that are not trained."""

import collections
from collections.abc import Iterator

from torch import nn


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that have parameters, none of which is trained.

    Without those that share a module with another place, or that somebody watches from inside.
    """
    places = collections.Counter(id(part) for part in _with_repetitions(model))
    return [
        part
        for part in _outermost_frozen(model)
        if all(places[id(inner)] == 1 for inner in part.modules())
        and not any(inner._forward_hooks or inner._forward_pre_hooks for inner in _within(part))
    ]


def _outermost_frozen(module: nn.Module) -> list[nn.Module]:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [part for child in module.children() for part in _outermost_frozen(child)]


def _with_repetitions(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all within it, one that has several places as often."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _with_repetitions(child)


def _within(module: nn.Module) -> Iterator[nn.Module]:
    return (inner for inner in module.modules() if inner is not module)
