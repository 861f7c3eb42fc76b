"""Deformable sampling against loops, and its derivatives."""

import math

import pytest
import torch

from fisher_detr.layers import Levels, MSDeformAttn, ms_deform_attn, sample_levels, twice_differentiable
from tests.oracles import naive_deformable

SHAPES = ((4, 5), (2, 3), (1, 1))
LEVELS = Levels.from_shapes(SHAPES)
NUM_TOKENS = 27


def make_problem(dtype=torch.float64, heads=2, width=3, queries=4, points=2, spread=1.4):
    """Locations reach out of the maps on all sides."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, NUM_TOKENS, heads, width, generator=generator, dtype=dtype)
    shape = (2, queries, heads, len(SHAPES), points)
    locations = 0.5 + spread * (torch.rand(*shape, 2, generator=generator, dtype=dtype) - 0.5)
    weights = torch.rand(*shape, generator=generator, dtype=dtype)
    return values, locations, weights


def test_levels_of_shapes():
    """Widths before heights."""
    assert Levels.from_shapes(iter([torch.Size(shape) for shape in SHAPES])).shapes == SHAPES
    assert LEVELS.sizes.tolist() == [[5, 4], [3, 2], [1, 1]]


@pytest.mark.parametrize("spread", [0.8, 1.4, 4.0], ids=["inside", "at the border", "far outside"])
def test_equals_loops(spread):
    values, locations, weights = make_problem(spread=spread)
    expected = naive_deformable.sample(values, SHAPES, locations, weights)
    found = sample_levels(values, LEVELS, locations, weights)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_whole_pixels_are_read_as_they_are():
    """The center of pixel (row 1, column 2) of a 4 x 5 map is at x = 2.5 / 5, y = 1.5 / 4."""
    values, _, _ = make_problem()
    locations = torch.tensor([2.5 / 5, 1.5 / 4], dtype=torch.float64).expand(2, 1, 2, 1, 1, 2)
    found = sample_levels(
        values[:, :20],
        Levels.from_shapes([(4, 5)]),
        locations,
        torch.ones(2, 1, 2, 1, 1, dtype=torch.float64),
    )
    torch.testing.assert_close(found[:, 0], values[:, 7].flatten(1), atol=1e-12, rtol=0)


def test_derivatives_of_first_and_second_order():
    """Away from whole pixels, where bilinear reading has a kink."""
    values, locations, weights = (
        x.requires_grad_() for x in make_problem(heads=1, width=2, queries=2, points=1, spread=0.8)
    )

    def sample(*inputs):
        values, locations, weights = inputs
        return sample_levels(values, LEVELS, locations, weights)

    assert torch.autograd.gradcheck(sample, (values, locations, weights))
    with twice_differentiable():
        assert torch.autograd.gradgradcheck(sample, (values, locations, weights))


def test_float32_inside_autocast():
    values, locations, weights = make_problem(torch.float32)
    expected = sample_levels(values, LEVELS, locations, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sample_levels(values, LEVELS, locations, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def make_attention():
    torch.manual_seed(0)
    attention = MSDeformAttn(16, num_heads=4, num_levels=3, num_points=2).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


@pytest.mark.parametrize("coordinates", [2, 4], ids=["points", "boxes"])
def test_locations_around_points_and_boxes(coordinates, monkeypatch):
    """Offsets count a level's pixels around a point, and parts of half a box, by the points, around a box."""
    attention = make_attention()
    query = torch.randn(2, 5, 16, dtype=torch.float64)
    reference = torch.rand(2, 5, 3, coordinates, dtype=torch.float64)
    seen = {}

    def record(values, levels, locations, weights):
        seen.update(locations=locations, weights=weights)
        return values.new_zeros(2, 5, 16)

    monkeypatch.setattr(ms_deform_attn, "sample_levels", record)
    attention(query, reference, torch.randn(2, NUM_TOKENS, 16, dtype=torch.float64), LEVELS)
    offsets = attention.sampling_offsets(query).reshape(2, 5, 4, 3, 2, 2)
    for level, (height, width) in enumerate(SHAPES):
        for axis, pixels in ((0, width), (1, height)):
            origin = reference[:, :, None, level, None, axis]
            if coordinates == 2:
                expected = origin + offsets[:, :, :, level, :, axis] / pixels
            else:
                side = reference[:, :, None, level, None, 2 + axis]
                expected = origin + offsets[:, :, :, level, :, axis] / 2 * side * 0.5
            torch.testing.assert_close(seen["locations"][:, :, :, level, :, axis], expected)
    torch.testing.assert_close(seen["weights"].sum((-1, -2)), torch.ones(2, 5, 4, dtype=torch.float64))


def test_padding_is_not_read():
    attention = make_attention()
    query = torch.randn(2, 5, 16, dtype=torch.float64)
    reference = torch.rand(2, 5, 3, 2, dtype=torch.float64)
    tokens = torch.randn(2, NUM_TOKENS, 16, dtype=torch.float64)
    mask = torch.rand(2, NUM_TOKENS) > 0.3
    changed = torch.where(mask[..., None], tokens, torch.tensor(99.0, dtype=torch.float64))
    found, other = (attention(query, reference, x, LEVELS, mask) for x in (tokens, changed))
    torch.testing.assert_close(found, other, atol=0, rtol=0)
    assert not torch.allclose(found, attention(query, reference, tokens, LEVELS))


def test_first_offsets_look_around():
    """Head h looks in direction 2 pi h / H on a square, point p at p + 1 pixels; all weigh the same."""
    attention = MSDeformAttn(16, num_heads=4, num_levels=3, num_points=2)
    offsets = attention.sampling_offsets.bias.reshape(4, 3, 2, 2)
    for head in range(4):
        x, y = math.cos(head * math.pi / 2), math.sin(head * math.pi / 2)
        scale = max(abs(x), abs(y))
        for point in (0, 1):
            expected = torch.tensor([x, y]) * (point + 1) / scale
            torch.testing.assert_close(offsets[head, :, point], expected.expand(3, 2), atol=1e-6, rtol=0)
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()
    assert not attention.attention_weights.bias.any()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 10 with 4 heads"):
        MSDeformAttn(10, 4, 3, 2)
