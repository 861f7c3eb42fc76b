"""Sine encodings of positions."""

import math

import torch
from torch import Tensor, nn

from fisher_detr.layers.precision import at_least_float32


def sine_encoding(positions: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Encode numbers by sines and cosines of falling frequency, in turns ("Attention Is All You Need").

    Args:
        positions: [...], angles in radians.
        dim: width of one number's encoding, even.
        temperature: ratio of the first to the last wavelength, about.

    Returns:
        [..., dim] in float32 or wider.
    """
    positions = at_least_float32(positions)
    pairs = torch.arange(dim // 2, dtype=positions.dtype, device=positions.device)
    angles = positions[..., None] / temperature ** (2 * pairs / dim)  # [..., dim / 2]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class SinePositionEncoding(nn.Module):
    """Two-dimensional sine encoding over the valid part of each image (DETR, arXiv 2005.12872)."""

    def __init__(self, dim: int, temperature: float = 10000.0, centered: bool = False):
        """Build.

        Args:
            dim: width D, a multiple of 4: half for y, half for x.
            temperature: 10000 in DETR, 20 in DAB-DETR.
            centered: positions are the pixels' centers, as in Deformable DETR; otherwise their far edges.
        """
        super().__init__()
        if dim % 4:
            raise ValueError(f"sine position encoding of width {dim}: expected a multiple of 4")
        self.dim = dim
        self.temperature = temperature
        self.shift = 0.5 if centered else 0.0

    def forward(self, valid: Tensor) -> Tensor:
        """Encode positions.

        Args:
            valid: bool [B, H, W], True inside the image, False on padding.

        Returns:
            [B, D, H, W] float32.
        """
        y, x = (self._normalize(valid.cumsum(axis, dtype=torch.float32), axis) for axis in (1, 2))
        encoded = [sine_encoding(position, self.dim // 2, self.temperature) for position in (y, x)]
        return torch.cat(encoded, dim=-1).permute(0, 3, 1, 2)

    def _normalize(self, position: Tensor, axis: int) -> Tensor:
        last = position.narrow(axis, position.shape[axis] - 1, 1)
        return (position - self.shift) / (last + 1e-6) * (2 * math.pi)
