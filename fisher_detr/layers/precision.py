"""Precision of numbers that half precision is too coarse for."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32 or wider: box coordinates and sampling locations need the mantissa."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Let a GPU multiply float32 as float32: torch's convolutions round it to 10 bits of mantissa."""
    owners, name, exact = _tf32_settings()
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, exact)
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            setattr(owner, name, value)


def _tf32_settings() -> tuple[tuple, str, str | bool]:
    """Where torch keeps them; releases that have `fp32_precision` refuse a mixture with the older name."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return (cudnn.conv, matmul), "fp32_precision", "ieee"
    return (cudnn, matmul), "allow_tf32", False
