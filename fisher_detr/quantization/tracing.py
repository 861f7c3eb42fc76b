"""Finds the matrix products that a model really computes, to hold a coverage report against them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
}


@dataclasses.dataclass(frozen=True)
class TracedProduct:
    """One call of an operator that multiplies.

    Attributes:
        operator: its name.
        macs: multiply-accumulates (one multiplication and one addition each), of every product that the
            operator computes: fused attention has two, `q k'` and `p v`; None where they are not known.
    """

    operator: str
    macs: tuple[int, ...] | None


@torch.no_grad()
def trace_products(model: nn.Module, run: Callable[[], Any]) -> dict[str, tuple[TracedProduct, ...]]:
    """Record every matrix product and convolution of a forward pass.

    Args:
        model: whose modules name the places.
        run: runs the model.

    Returns:
        dict: the products, in the order of the calls, by path of the innermost module that called them.
    """
    stack, found = [""], {}
    with _named_calls(model, stack), _Recorder(stack, found):
        run()
    return {name: tuple(products) for name, products in found.items()}


class _Recorder(TorchDispatchMode):
    def __init__(self, stack: list[str], found: dict[str, list[TracedProduct]]):
        super().__init__()
        self.stack, self.found = stack, found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator, kwargs = func.overloadpacket.__name__, kwargs or {}
        output = func(*args, **kwargs)
        if _is_fused_attention(operator):
            self._record(operator, _attention_macs(*args[:3]))
        elif operator in _PRODUCTS:
            count = flop_registry.get(func.overloadpacket)  # of additions and multiplications
            self._record(operator, count and (count(*args, **kwargs, out_val=output) // 2,))
        return output

    def _record(self, operator: str, macs: tuple[int, ...] | None) -> None:
        self.found.setdefault(self.stack[-1], []).append(TracedProduct(operator, macs))


def _is_fused_attention(operator: str) -> bool:
    return "scaled_dot_product" in operator


def _attention_macs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[int, int]:
    """Of `q k'` and of `p v`, from q [B, H, T, d], k [B, H, S, d] and v [B, H, S, d']."""
    return q.numel() * k.shape[-2], q[..., 0].numel() * v.shape[-2] * v.shape[-1]


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
