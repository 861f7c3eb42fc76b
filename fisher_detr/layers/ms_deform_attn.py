"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) in plain torch.

Shapes: B batch, H heads, T queries, D width, d = D / H, L levels, P points, S tokens of all levels.
"""

import dataclasses
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fisher_detr.layers.precision import at_least_float32
from fisher_detr.layers.weighted_samples import weighted_samples


@dataclasses.dataclass(frozen=True)
class Levels:
    """Where the maps of all levels are in one sequence of tokens, for Python and for the device.

    Made once and handed to every layer: each tensor made of Python's numbers is a copy to the device.

    Attributes:
        shapes: height and width of the L levels.
        sizes: [L, 2] float32, width and height in pixels.
    """

    shapes: tuple[tuple[int, int], ...]
    sizes: Tensor

    @classmethod
    def from_shapes(cls, shapes: Iterable[tuple[int, int]], device: torch.device | None = None) -> "Levels":
        """Describe levels by height and width of each, on the tokens' device (None: torch's default)."""
        shapes = tuple((h, w) for h, w in shapes)
        if torch.jit.is_tracing():  # the numbers are tensors of the graph, which `torch.tensor` would forget
            sizes = torch.stack([torch.stack([w, h]) for h, w in shapes]).float()
        else:
            sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=device)
        return cls(shapes, sizes)


class MSDeformAttn(nn.Module):
    """Every query reads each level at a few points near its reference point."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int):
        """Args are D, H (divides D), L and P."""
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                f"attention of width {dim} with {num_heads} heads: the heads must divide the width"
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look into H directions, point p at p pixels' distance; all points weigh the same."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # [H, 2], on a square
        distances = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * distances[:, None]  # [H, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        for parameter in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(parameter)
        for layer in (self.value_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, tokens: Tensor, levels: Levels, mask: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: [B, T, D].
            reference: [B, T, L, 2], points x, y, or [B, T, L, 4], boxes center x, center y, width, height, as
                parts of each level's map with its padding.
            tokens: [B, S, D], the levels one after the other.
            levels: the L levels, on the tokens' device; alone, `Levels.from_shapes(shapes, tokens.device)`.
            mask: bool [B, S], True inside the image; None: no padding.

        Returns:
            [B, T, D].
        """
        grid = (self.num_heads, self.num_levels, self.num_points)
        values = self.value_proj(tokens)
        if mask is not None:
            values = values.masked_fill(~mask[..., None], 0.0)
        offsets = at_least_float32(self.sampling_offsets(query)).unflatten(
            -1, (*grid, 2)
        )  # [B, T, H, L, P, 2]
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        sampled = sample_levels(
            values.unflatten(-1, (self.num_heads, -1)),
            levels,
            self._locations(reference, offsets, levels),
            weights.unflatten(-1, grid[1:]),
        )
        return self.out_proj(sampled.to(query.dtype))

    def _locations(self, reference: Tensor, offsets: Tensor, levels: Levels) -> Tensor:
        """Offsets count pixels around points, and parts of half a box around boxes."""
        reference = reference[:, :, None, :, None]  # [B, T, 1, L, 1, 2 or 4]
        if reference.shape[-1] == 4:
            scale = reference[..., 2:] * (0.5 / self.num_points)
        else:
            scale = 1 / levels.sizes.to(offsets.dtype)[:, None]  # [L, 1, 2]
        return reference[..., :2] + offsets * scale


def sample_levels(values: Tensor, levels: Levels, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinearly sampled values; float32 or wider, inside autocast too.

    Args:
        values: [B, S, H, d], the levels one after the other.
        levels: the L levels, on the values' device.
        locations: [B, T, H, L, P, 2], x and y as parts of the level's map; outside of it values are 0.
        weights: [B, T, H, L, P].

    Returns:
        [B, T, D].
    """
    with torch.autocast(values.device.type, enabled=False):
        return _sample_levels(*map(at_least_float32, (values, locations, weights)), levels)


def _sample_levels(values: Tensor, locations: Tensor, weights: Tensor, levels: Levels) -> Tensor:
    num_heads = values.shape[2]
    # Points before queries: they are read one after the other.
    points = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [L, B H, P, T, 2]
    weights = weights.permute(3, 0, 2, 4, 1).flatten(1, 2)  # [L, B H, P, T]
    sums = 0
    for level, tokens in enumerate(values.split([h * w for h, w in levels.shapes], dim=1)):
        maps = tokens.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, levels.shapes[level])  # [B H, d, h, w]
        sums = sums + weighted_samples(maps, points[level], weights[level])  # [B H, d, T]
    return sums.unflatten(0, (-1, num_heads)).permute(0, 3, 1, 2).flatten(2)
