"""Which part of padded images is image."""

import torch
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F


def valid_pixels(images: ImageList, size: tuple[int, int]) -> Tensor:
    """Mask of the real part of padded images at a feature map's size, by nearest interpolation as in DETR.

    Args:
        images: B images.
        size: height H and width W of the feature map.

    Returns:
        bool [B, H, W], True inside the image.
    """
    height, width = images.tensor.shape[-2:]
    mask = torch.zeros(len(images), 1, height, width, device=images.tensor.device)
    for i, (h, w) in enumerate(images.image_sizes):
        mask[i, :, :h, :w] = 1
    return F.interpolate(mask, size=size, mode="nearest")[:, 0] > 0


def is_padded(images: ImageList) -> bool:
    """Whether any image is; told by the sizes: to ask the mask would make the host wait for the GPU."""
    return any(tuple(size) != tuple(images.tensor.shape[-2:]) for size in images.image_sizes)
