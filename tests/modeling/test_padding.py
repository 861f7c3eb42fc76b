"""The mask of a traced graph against that of Detectron2's images."""

import dataclasses

import pytest
import torch
from detectron2.structures import ImageList

from fisher_detr.modeling.padding import is_padded, valid_pixels


@dataclasses.dataclass
class TracedImages:
    tensor: torch.Tensor
    image_sizes: torch.Tensor | None


@pytest.mark.parametrize("full", [(64, 96), (75, 101), (21, 7), (227, 301)])
def test_sizes_as_a_tensor_give_the_same_mask(full):
    height, width = full
    sizes = [full, (height - 1, width // 2 + 1), (height // 3, width)]
    images = ImageList(torch.zeros(3, 3, *full), sizes)
    traced = TracedImages(images.tensor, torch.tensor(sizes))
    for stride in (1, 4, 8, 16, 32):
        small = (-(-height // stride), -(-width // stride))
        mask = valid_pixels(images, small)
        assert torch.equal(valid_pixels(traced, small), mask)
        assert stride > 4 or not mask.all()
    assert is_padded(images)
    assert is_padded(traced)


def test_no_sizes_are_no_padding():
    traced = TracedImages(torch.zeros(2, 3, 64, 96), None)
    assert valid_pixels(traced, (8, 12)).all()
    assert valid_pixels(traced, (8, 12)).shape == (2, 8, 12)
    assert not is_padded(traced)
