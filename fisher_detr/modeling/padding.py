"""Which part of padded images is image, and feature maps as tokens that know it."""

from collections.abc import Callable

import torch
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F


def valid_pixels(images: ImageList, size: tuple[int, int]) -> Tensor:
    """Mask of the real part of padded images at a feature map's size, by nearest interpolation as in DETR.

    Args:
        images: B images. Where a graph is traced, `image_sizes` is a tensor [B, 2], or None: no padding.
        size: height H and width W of the feature map.

    Returns:
        bool [B, H, W], True inside the image.
    """
    tensor, sizes = images.tensor, images.image_sizes
    if sizes is None:
        return torch.ones_like(tensor[:, 0, :1, :1], dtype=torch.bool).expand(-1, *size)
    if isinstance(sizes, Tensor):
        return _valid_by_sizes(sizes, tensor.shape[-2:], size)
    mask = torch.zeros(len(images), 1, *tensor.shape[-2:], device=tensor.device)
    for i, (h, w) in enumerate(sizes):
        mask[i, :, :h, :w] = 1
    return F.interpolate(mask, size=size, mode="nearest")[:, 0] > 0


def is_padded(images: ImageList) -> bool:
    """Whether any image is; told by the sizes: to ask the mask would make the host wait for the GPU."""
    sizes = images.image_sizes
    if sizes is None or isinstance(sizes, Tensor):  # of a traced graph, which has a mask or has none
        return sizes is not None
    return any(tuple(size) != tuple(images.tensor.shape[-2:]) for size in sizes)


def _valid_by_sizes(sizes: Tensor, full: tuple[int, int], small: tuple[int, int]) -> Tensor:
    """The same for a graph, whose sizes are tensors: from the pixels that nearest interpolation reads."""
    rows, columns = (
        (torch.arange(n) * (torch.as_tensor(m).float() / torch.as_tensor(n).float())).floor() < limit[:, None]
        for n, m, limit in zip(small, full, sizes.unbind(1), strict=True)
    )
    return rows[:, :, None] & columns[:, None]


def tokens_of(
    images: ImageList, maps: Tensor, position_encoding: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A feature map of padded images as what an encoder reads, row by row.

    Args:
        images: B images.
        maps: [B, D, H, W].
        position_encoding: from bool [B, H, W], True inside the image, to [B, D, H, W].

    Returns:
        tokens [B, S, D], their position encodings [B, S, D], and a mask, bool [B, S], True inside the image;
        None where no image is padded.
    """
    valid = valid_pixels(images, maps.shape[-2:])
    position = position_encoding(valid).to(maps.dtype)
    tokens, position = (x.flatten(2).transpose(1, 2) for x in (maps, position))
    return tokens, position, valid.flatten(1) if is_padded(images) else None
