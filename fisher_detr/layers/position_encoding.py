"""Sine position encoding of feature maps."""

import math

import torch
from torch import Tensor, nn


class SinePositionEncoding(nn.Module):
    """Two-dimensional sine encoding over the valid part of each image (DETR, arXiv 2005.12872)."""

    def __init__(self, dim: int, temperature: float = 10000.0):
        """Args are the width D (a multiple of 4: half for y, half for x) and the temperature."""
        super().__init__()
        if dim % 4:
            raise ValueError(f"sine position encoding of width {dim}: expected a multiple of 4")
        self.dim = dim
        self.temperature = temperature

    def forward(self, valid: Tensor) -> Tensor:
        """Encode positions.

        Args:
            valid: bool [B, H, W], True inside the image, False on padding.

        Returns:
            [B, D, H, W] float32.
        """
        y, x = (self._normalize(valid.cumsum(axis, dtype=torch.float32), axis) for axis in (1, 2))
        return torch.cat([self._encode(y), self._encode(x)], dim=-1).permute(0, 3, 1, 2)

    def _normalize(self, position: Tensor, axis: int) -> Tensor:
        last = position.narrow(axis, position.shape[axis] - 1, 1)
        return position / (last + 1e-6) * (2 * math.pi)

    def _encode(self, position: Tensor) -> Tensor:
        pairs = torch.arange(self.dim // 4, dtype=torch.float32, device=position.device)
        angles = position[..., None] / self.temperature ** (4 * pairs / self.dim)  # [B, H, W, D / 4]
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # [B, H, W, D / 2]
