"""Finds the matrix products that a model really computes, to hold a coverage report against them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
}


@torch.no_grad()
def trace_products(model: nn.Module, run: Callable[[], Any]) -> dict[str, tuple[str, ...]]:
    """Record every matrix product and convolution of a forward pass.

    Args:
        model: whose modules name the places.
        run: runs the model.

    Returns:
        dict: names of the operators, in the order of the calls, by path of the innermost module that called
            them.
    """
    stack, found = [""], {}
    with _named_calls(model, stack), _Recorder(stack, found):
        run()
    return {name: tuple(operators) for name, operators in found.items()}


class _Recorder(TorchDispatchMode):
    def __init__(self, stack: list[str], found: dict[str, list[str]]):
        super().__init__()
        self.stack, self.found = stack, found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator = func.overloadpacket.__name__
        if operator in _PRODUCTS or "scaled_dot_product" in operator:
            self.found.setdefault(self.stack[-1], []).append(operator)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _named_calls(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the path of the module whose forward runs on top of `stack`."""

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
