"""Multi-scale deformable attention by loops over plain numbers."""

import math

import torch


def bilinear(level, x, y):
    """Value [d] of a map [h][w][d] at a position in pixels, whose centers are whole numbers; 0 outside."""
    height, width, channels = len(level), len(level[0]), len(level[0][0])
    left, top = math.floor(x), math.floor(y)
    total = [0.0] * channels
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                total = [t + share * v for t, v in zip(total, level[row][column], strict=True)]
    return total


def sample(values, shapes, locations, weights):
    """Weighted sums.

    Args:
        values: [B, S, H, d] float64.
        shapes: height and width of the levels.
        locations: [B, T, H, L, P, 2], x and y in [0, 1].
        weights: [B, T, H, L, P].

    Returns:
        [B, T, H d].
    """
    batch, queries, heads, levels, points = weights.shape
    found = torch.zeros(batch, queries, heads, values.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for head in range(heads):
            maps, first = [], 0
            for height, width in shapes:
                level = values[b, first : first + height * width, head].reshape(height, width, -1)
                maps.append(level.tolist())
                first += height * width
            for t in range(queries):
                for level in range(levels):
                    for p in range(points):
                        x, y = locations[b, t, head, level, p].tolist()
                        height, width = shapes[level]
                        value = bilinear(maps[level], x * width - 0.5, y * height - 0.5)
                        weight = float(weights[b, t, head, level, p])
                        found[b, t, head] += weight * torch.tensor(value, dtype=torch.float64)
    return found.flatten(2)
