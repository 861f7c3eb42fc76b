"""Temporary modes of a whole model."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fisher_detr.layers.convolution import conv2d


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module of it back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let attention have a second derivative, and convolution a faster one, with the same numbers.

    Fused attention has none: torch's mathematical one stands in for it.
    """
    with sdpa_kernel(SDPBackend.MATH), _FastConvolution():
        yield


class _FastConvolution(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None):
        return (conv2d if func is F.conv2d else func)(*args, **kwargs or {})
