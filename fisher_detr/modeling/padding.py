"""Which part of padded images is image, and feature maps as tokens that know it."""

from collections.abc import Callable

import torch
from detectron2.structures import ImageList
from torch import Tensor


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
    sizes = torch.as_tensor(sizes, device=tensor.device)  # [B, 2]
    rows, columns = (
        _nearest(small, full, tensor.device) < limit[:, None]
        for small, full, limit in zip(size, tensor.shape[-2:], sizes.unbind(1), strict=True)
    )
    return rows[:, :, None] & columns[:, None]


def is_padded(images: ImageList) -> bool:
    """Whether any image is; told by the sizes: to ask the mask would make the host wait for the GPU."""
    sizes = images.image_sizes
    if sizes is None or isinstance(
        sizes, Tensor
    ):  # of a graph that is traced: the mask is part of it, or not
        return sizes is not None
    return any(tuple(size) != tuple(images.tensor.shape[-2:]) for size in sizes)


def _nearest(small: int, full: int, device: torch.device) -> Tensor:
    """Pixels of the full size that nearest interpolation reads, [small]."""
    ratio = torch.as_tensor(full, dtype=torch.float32) / torch.as_tensor(small, dtype=torch.float32)
    return (torch.arange(small, device=device) * ratio.to(device)).floor()


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
