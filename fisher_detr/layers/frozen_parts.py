"""Parts of a model that are not trained."""

import collections

from torch import nn


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that have parameters, none of which is trained.

    Without those that share a module with another place, or that somebody watches from inside.
    """
    places = collections.Counter(module for _, module in model.named_modules(remove_duplicate=False))
    return [
        part
        for part in _outermost_frozen(model)
        if all(places[inner] == 1 for inner in part.modules())
        and not any(x._forward_hooks or x._forward_pre_hooks for x in part.modules() if x is not part)
    ]


def _outermost_frozen(module: nn.Module) -> list[nn.Module]:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [module]
    return [part for child in module.children() for part in _outermost_frozen(child)]
