"""Feature maps of several resolutions as one sequence of tokens.

Shapes: B batch, L levels, S tokens of all levels, D width.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fisher_detr.layers import Levels


@dataclasses.dataclass(frozen=True)
class TokenPyramid:
    """Tokens of all levels, the first level first, row by row.

    Attributes:
        tokens: [B, S, D].
        position: [B, S, D], position encodings.
        mask: bool [B, S], True inside the image; None: no padding.
        levels: shapes of the L maps, for the layers that read them.
        valid_ratios: [B, L, 2], the part of a level's width and height that is image.
    """

    tokens: Tensor
    position: Tensor
    mask: Tensor | None
    levels: Levels
    valid_ratios: Tensor

    @classmethod
    def from_maps(
        cls, maps: Sequence[Tensor], positions: Sequence[Tensor], valid: Sequence[Tensor], padded: bool
    ) -> "TokenPyramid":
        """Put maps together.

        Args:
            maps: L maps [B, D, H, W].
            positions: L encodings [B, D, H, W].
            valid: L masks, bool [B, H, W], True inside the image.
            padded: whether any image is padded.
        """
        ratios = torch.stack([_valid_ratio(mask) for mask in valid], dim=1).to(maps[0].dtype)
        return cls(
            _flatten(maps),
            _flatten(positions),
            torch.cat([mask.flatten(1) for mask in valid], dim=1) if padded else None,
            Levels.from_shapes([x.shape[-2:] for x in maps], maps[0].device),
            ratios,
        )

    @property
    def centers(self) -> Tensor:
        """Center x, y of every token as parts of the image without padding, [B, S, 2]."""
        levels = []
        for level, (height, width) in enumerate(self.levels.shapes):
            y, x = (torch.arange(n, device=self.tokens.device) + 0.5 for n in (height, width))
            grid = torch.stack(torch.meshgrid(x / width, y / height, indexing="xy"), dim=-1)  # [h, w, 2]
            levels.append(grid.flatten(0, 1) / self.valid_ratios[:, None, level])
        return torch.cat(levels, dim=1).to(self.valid_ratios.dtype)

    def on_levels(self, reference: Tensor) -> Tensor:
        """Points or boxes of the image as parts of each level's map with its padding.

        Args:
            reference: [B, T, 2] or [B, T, 4].

        Returns:
            [B, T, L, 2] or [B, T, L, 4].
        """
        ratios = self.valid_ratios.repeat(1, 1, reference.shape[-1] // 2)  # [B, L, 2 or 4]
        return reference[:, :, None] * ratios[:, None]


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def _valid_ratio(valid: Tensor) -> Tensor:
    """Width and height, [B, 2]."""
    height, width = valid.shape[1:]
    return torch.stack([valid[:, 0].sum(1) / width, valid[:, :, 0].sum(1) / height], dim=-1)
