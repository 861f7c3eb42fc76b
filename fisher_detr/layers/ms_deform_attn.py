"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, equation 3) in plain torch.

Shapes: B batch, H heads, T queries, D width, d = D / H, L levels, P points, S tokens of all levels.
"""

import dataclasses
import enum
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fisher_detr.layers.precision import at_least_float32


@dataclasses.dataclass(frozen=True)
class Levels:
    """Where the maps of all levels are in one sequence of tokens, for Python and for the device.

    Made once and handed to every layer: each tensor made of Python's numbers is a copy to the device.

    Attributes:
        shapes: height and width of the L levels.
        sizes: [L, 2] float32, width and height in pixels.
        starts: [L] int64, each level's first token.
    """

    shapes: tuple[tuple[int, int], ...]
    sizes: Tensor
    starts: Tensor

    @classmethod
    def from_shapes(cls, shapes: Iterable[tuple[int, int]], device: torch.device | None = None) -> "Levels":
        """Describe levels by height and width of each, on the tokens' device (None: torch's default)."""
        shapes = tuple((h, w) for h, w in shapes)
        if torch.jit.is_tracing():  # the numbers are tensors of the graph, which `torch.tensor` would forget
            sizes = torch.stack([torch.stack([w, h]) for h, w in shapes]).float()
        else:
            sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=device)
        areas = sizes.prod(-1).long()
        return cls(shapes, sizes, areas.cumsum(0) - areas)


class SamplingMethod(enum.StrEnum):
    """How values are read between pixels; both give the same numbers.

    `GRID_SAMPLE` is faster and has no second derivative; `GATHER` can be derived twice.
    """

    GRID_SAMPLE = "grid_sample"
    GATHER = "gather"


class DeformableSampling(nn.Module):
    """Weighted sums of bilinearly sampled values, in a module of its own so that its method can be set."""

    def __init__(self, method: SamplingMethod = SamplingMethod.GRID_SAMPLE):
        """The method can be changed at any time."""
        super().__init__()
        self.method = method

    def forward(self, values: Tensor, levels: Levels, locations: Tensor, weights: Tensor) -> Tensor:
        """Sample; float32 or wider, inside autocast too.

        Args:
            values: [B, S, H, d], the levels one after the other.
            levels: the L levels, on the values' device.
            locations: [B, T, H, L, P, 2], x and y as parts of the level's map; outside of it values are 0.
            weights: [B, T, H, L, P].

        Returns:
            [B, T, D].
        """
        sample = _SAMPLERS[self.method]
        with torch.autocast(values.device.type, enabled=False):
            return sample(*map(at_least_float32, (values, locations, weights)), levels)


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
        self.sampling = DeformableSampling()
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
        sampled = self.sampling(
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


def _grid_sample(values: Tensor, locations: Tensor, weights: Tensor, levels: Levels) -> Tensor:
    num_heads = values.shape[2]
    # Points before queries: sums over the last of few are slow.
    grids = (2 * locations - 1).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # [L, B H, P, T, 2]
    weights = weights.permute(3, 0, 2, 4, 1).flatten(1, 2)  # [L, B H, P, T]
    sums = 0
    for level, tokens in enumerate(values.split([h * w for h, w in levels.shapes], dim=1)):
        maps = tokens.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, levels.shapes[level])  # [B H, d, h, w]
        sampled = F.grid_sample(maps, grids[level], align_corners=False)  # [B H, d, P, T]
        sums = sums + (sampled * weights[level][:, None]).sum(2)
    return sums.unflatten(0, (-1, num_heads)).permute(0, 3, 1, 2).flatten(2)


def _gather(values: Tensor, locations: Tensor, weights: Tensor, levels: Levels) -> Tensor:
    indices, weights = _corners(locations, weights, levels)  # [B, T, H, 4 L P]
    rows = indices.transpose(1, 2).flatten(2)[..., None]  # [B, H, T 4 L P, 1]
    rows = rows.expand(-1, -1, -1, values.shape[-1])
    corners = values.transpose(1, 2).gather(2, rows).unflatten(2, (-1, indices.shape[-1]))
    return torch.einsum("bhtkd,bthk->bthd", corners, weights).flatten(2)


def _corners(locations: Tensor, weights: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """The four pixels around every point: tokens and weights [B, T, H, 4 L P]."""
    sizes = levels.sizes.to(locations.dtype)[:, None]  # [L, 1, 2]
    width, height = sizes.unbind(-1)
    x, y = (locations * sizes - 0.5).unbind(-1)  # pixel centers are whole numbers
    left, top = x.detach().floor(), y.detach().floor()
    columns = (left, left + 1 - x), (left + 1, x - left)  # and their shares
    rows = (top, top + 1 - y), (top + 1, y - top)
    tokens, products = [], []
    for column, share_x in columns:
        for row, share_y in rows:
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixel = torch.where(inside, row * width + column, 0).long()
            tokens.append(levels.starts[:, None] + pixel)
            products.append(weights * share_x * share_y * inside)
    return torch.stack(tokens, -1).flatten(3), torch.stack(products, -1).flatten(3)


_SAMPLERS = {
    SamplingMethod.GRID_SAMPLE: _grid_sample,
    SamplingMethod.GATHER: _gather,
}
