"""The loss around some weights: along random directions, and how sharply it rises.

Directions are normalised by filter (Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018): the
part of an output channel is as long as the channel's weights, so that a step of 0.1 changes every one by a
tenth of its norm whatever its scale, and models can be compared.

Legend: D directions, R radii, S steps of a side of the plane, N images.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fisher_detr.fisher.statistics import standard_error

# Maps a displacement of the weights, by layer name, to losses by objective, of each image: [N].
DisplacedLosses = Callable[[Mapping[str, Tensor]], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Mean losses around the weights.

    Attributes:
        steps: of a direction, ascending, symmetric around 0, `[R]`.
        lines: loss by objective, `[D, R]`.
        plane_steps: of both sides of the plane, `[S]`; empty: there is no plane.
        planes: loss by objective, `[S, S]`, rows along the first direction.
        rises: by objective, what every image's loss rises by at each positive step, mean over both signs and
            over the directions: `[N, R // 2]`.
    """

    steps: np.ndarray
    lines: Mapping[str, np.ndarray]
    plane_steps: np.ndarray
    planes: Mapping[str, np.ndarray]
    rises: Mapping[str, np.ndarray]

    def sharpness(self, objective: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean rise at each positive step and its standard error over the images, `[R // 2]` each."""
        return self.rises[objective].mean(axis=0), standard_error(self.rises[objective])


def random_direction(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A normal direction, each output channel as long as the weights of the channel.

    Args:
        weights: by layer name; the first dimension is that of the output channels.
        seed: the draw depends on it and on the shapes alone: one seed is one direction for every model.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _as_long_as(weight, generator) for name, weight in weights.items()}


def explore(
    losses: DisplacedLosses,
    weights: Mapping[str, Tensor],
    steps: Sequence[float],
    seeds: Sequence[int],
    plane_steps: Sequence[float] = (),
) -> Landscape:
    """Losses along directions, and in the plane of the first two.

    Args:
        losses: of the displaced weights; called with nothing for the weights as they are.
        weights: what is displaced, by layer name.
        steps: positive, in parts of a channel's norm; each is taken to both sides.
        seeds: of the D directions.
        plane_steps: positive, of the plane; empty: no plane.

    Raises:
        ValueError: no step or direction, a step that is not positive, or a plane of fewer than two
            directions.
    """
    _check(steps, seeds, plane_steps)
    here = losses({})
    sides = _both_sides(steps)
    of_seeds = []  # [D] of {objective: [R, N]}
    for seed in seeds:
        direction = random_direction(weights, seed)
        found = [here if step == 0.0 else losses(_moved((step, direction))) for step in sides]
        of_seeds.append({name: np.stack([at[name] for at in found]) for name in here})
    lines = {name: np.stack([found[name] for found in of_seeds]) for name in here}  # [D, R, N]
    grid = _both_sides(plane_steps) if len(plane_steps) else np.zeros(0)
    return Landscape(
        sides,
        {name: values.mean(axis=-1) for name, values in lines.items()},
        grid,
        _planes(losses, weights, grid, seeds, here),
        {name: _rises(values) for name, values in lines.items()},
    )


@contextlib.contextmanager
def displaced(tensors: Mapping[str, Tensor], displacement: Mapping[str, Tensor]) -> Iterator[None]:
    """Add to tensors in place, and put them back."""
    before = {name: tensors[name].detach().clone() for name in displacement}
    try:
        with torch.no_grad():
            for name, change in displacement.items():
                tensors[name].add_(change)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                tensors[name].copy_(value)


def _as_long_as(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).flatten(1)
    lengths = weight.detach().flatten(1).double().cpu().norm(dim=1, keepdim=True)
    scaled = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12) * lengths
    return scaled.reshape(weight.shape).to(weight)


def _moved(*parts: tuple[float, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    (_, first), *_ = parts
    return {name: sum(step * direction[name] for step, direction in parts) for name in first}


def _planes(losses, weights, grid, seeds, here) -> dict[str, np.ndarray]:
    """Loss by objective, `[S, S]`."""
    if not len(grid):
        return {}
    first, second = (random_direction(weights, seed) for seed in seeds[:2])
    found = [losses(_moved((a, first), (b, second))) for a in grid for b in grid]
    shape = (len(grid), len(grid))
    return {name: np.array([at[name].mean() for at in found]).reshape(shape) for name in here}


def _rises(values: np.ndarray) -> np.ndarray:
    """From losses `[D, R, N]` of steps of both signs and 0."""
    middle = values.shape[1] // 2
    both = (values[:, middle + 1 :] + values[:, :middle][:, ::-1]) / 2  # [D, R // 2, N]
    return (both - values[:, middle : middle + 1]).mean(axis=0).T


def _both_sides(steps: Sequence[float]) -> np.ndarray:
    positive = np.array(sorted(steps), dtype=float)
    return np.concatenate([-positive[::-1], [0.0], positive])


def _check(steps: Sequence[float], seeds: Sequence[int], plane_steps: Sequence[float]) -> None:
    if not len(steps) or not len(seeds):
        raise ValueError(f"{len(steps)} steps along {len(seeds)} directions: expected at least one of each")
    if wrong := [step for step in (*steps, *plane_steps) if not 0.0 < step < float("inf")]:
        raise ValueError(f"steps of the loss landscape {wrong}: expected positive numbers")
    if len(plane_steps) and len(seeds) < 2:
        raise ValueError("a plane of the loss landscape needs two directions: give two seeds")
