"""Sine position encoding against a loop over pixels and channels."""

import math

import pytest
import torch

from fisher_detr.layers import SinePositionEncoding, sine_encoding


def encode_naively(valid, dim, temperature, shift):
    """Equation of DETR's code: sine and cosine in turn, y in the first half of the channels, x in the second.

    A position is the number of valid pixels up to it less the shift, as a part of those in its row or column,
    times 2 pi.
    """
    height, width = len(valid), len(valid[0])
    encoding = torch.zeros(dim, height, width, dtype=torch.float64)
    half = dim // 2
    for i in range(height):
        for j in range(width):
            rows = (sum(valid[a][j] for a in range(i + 1)) - shift) / (sum(row[j] for row in valid) + 1e-6)
            columns = (sum(valid[i][: j + 1]) - shift) / (sum(valid[i]) + 1e-6)
            for first, part in ((0, rows), (half, columns)):
                for c in range(half):
                    angle = 2 * math.pi * part / temperature ** (2 * (c // 2) / half)
                    encoding[first + c, i, j] = math.cos(angle) if c % 2 else math.sin(angle)
    return encoding


@pytest.mark.parametrize("temperature", [10000.0, 20.0])
@pytest.mark.parametrize("centered", [False, True])
def test_equals_a_loop(temperature, centered):
    valid = torch.zeros(2, 4, 5, dtype=torch.bool)
    valid[0] = True
    valid[1, :3, :2] = True  # the second image is padded: a column without a valid pixel must not divide by 0
    found = SinePositionEncoding(8, temperature, centered)(valid)
    assert found.shape == (2, 8, 4, 5)
    assert found.dtype == torch.float32
    for image in range(2):
        expected = encode_naively(valid[image].tolist(), 8, temperature, 0.5 if centered else 0.0)
        inside = valid[image] if centered else torch.ones_like(valid[image])  # else -0.5 / 1e-6, a huge angle
        torch.testing.assert_close(found[image].double()[:, inside], expected[:, inside], atol=1e-5, rtol=0)
        assert torch.isfinite(found).all()


def test_padding_does_not_move_the_image():
    padded = torch.zeros(1, 6, 7, dtype=torch.bool)
    padded[:, :4, :5] = True
    encode = SinePositionEncoding(16)
    assert torch.equal(encode(padded)[..., :4, :5], encode(torch.ones(1, 4, 5, dtype=torch.bool)))


def test_encoding_of_numbers():
    """Frequencies 1 and 1 / 100 of four channels: sin x, cos x, sin x / 100, cos x / 100."""
    found = sine_encoding(torch.tensor([[2.0, 0.0]], dtype=torch.float64), 4)
    expected = [[math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)], [0.0, 1.0, 0.0, 1.0]]
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64), atol=1e-12, rtol=0)


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="width 10: expected a multiple of 4"):
        SinePositionEncoding(10)
