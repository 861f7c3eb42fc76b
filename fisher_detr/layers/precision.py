"""Precision of numbers that half precision is too coarse for."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32 or wider: box coordinates and sampling locations need the mantissa."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
