"""Sine position encoding against a loop over pixels and channels."""

import math

import pytest
import torch

from fisher_detr.layers import SinePositionEncoding


def encode_naively(valid, dim, temperature):
    """Equation of DETR's code: sine and cosine in turn, y in the first half of the channels, x in the second.

    A position is the number of valid pixels up to it, as a part of those in its row or column, times 2 pi.
    """
    height, width = len(valid), len(valid[0])
    encoding = torch.zeros(dim, height, width, dtype=torch.float64)
    half = dim // 2
    for i in range(height):
        for j in range(width):
            rows = sum(valid[a][j] for a in range(i + 1)) / (sum(row[j] for row in valid) + 1e-6)
            columns = sum(valid[i][: j + 1]) / (sum(valid[i]) + 1e-6)
            for first, part in ((0, rows), (half, columns)):
                for c in range(half):
                    angle = 2 * math.pi * part / temperature ** (2 * (c // 2) / half)
                    encoding[first + c, i, j] = math.cos(angle) if c % 2 else math.sin(angle)
    return encoding


@pytest.mark.parametrize("temperature", [10000.0, 20.0])
def test_equals_a_loop(temperature):
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    valid[0] = True
    valid[1, :3, :2] = True  # the second image is padded: a column without a valid pixel must not divide by 0
    found = SinePositionEncoding(8, temperature)(valid)
    assert found.shape == (2, 8, 4, 5)
    assert found.dtype == torch.float32
    for image in range(2):
        expected = encode_naively(valid[image].tolist(), 8, temperature)
        torch.testing.assert_close(found[image].double(), expected, atol=1e-5, rtol=0)


def test_padding_does_not_move_the_image():
    padded = torch.zeros(1, 6, 7, dtype=torch.bool)
    padded[:, :4, :5] = True
    encode = SinePositionEncoding(16)
    assert torch.equal(encode(padded)[..., :4, :5], encode(torch.ones(1, 4, 5, dtype=torch.bool)))


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="width 10: expected a multiple of 4"):
        SinePositionEncoding(10)
