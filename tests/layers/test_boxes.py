"""The generalized IoU of pairs against torchvision's of all pairs, and where areas vanish."""

import pytest
import torch
from torchvision.ops import generalized_box_iou

from fisher_detr.layers import inverse_sigmoid, paired_generalized_iou


def random_boxes(count, side, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 2 * side
    return torch.cat([low, low + side * torch.rand(count, 2, generator=generator, dtype=torch.float64)], 1)


@pytest.mark.parametrize("side", [1.0, 4e-3, 1e-6])
def test_equals_the_diagonal_of_all_pairs(side):
    """Overlapping, apart, and of any size: torchvision's has no epsilon when it compares all pairs."""
    boxes, others = random_boxes(200, side, 0), random_boxes(200, side, 1)
    expected = generalized_box_iou(boxes, others).diagonal()
    assert (expected > 0).any() and (expected < 0).any()
    torch.testing.assert_close(paired_generalized_iou(boxes, others), expected, atol=1e-12, rtol=0)


POINT, FAR_POINT = [0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.9, 0.5]
LINE, SQUARE = [0.2, 0.5, 0.8, 0.5], [0.4, 0.4, 0.6, 0.6]


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        (POINT, POINT, 0.0),
        (POINT, FAR_POINT, 0.0),
        (LINE, LINE, 0.0),
        (SQUARE, SQUARE, 1.0),
        # The point lies in the square: IoU 0, no gap in the hull.
        (POINT, SQUARE, 0.0),
        # Hull 0.6 x 0.2, union 0.04: -(0.12 - 0.04) / 0.12.
        (LINE, SQUARE, -2 / 3),
    ],
)
def test_boxes_without_area(box, other, expected):
    boxes = torch.tensor([box], dtype=torch.float64, requires_grad=True)
    found = paired_generalized_iou(boxes, torch.tensor([other], dtype=torch.float64))
    assert float(found.detach()) == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), boxes, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), boxes)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(second).all()


def test_first_and_second_derivatives():
    boxes, others = random_boxes(6, 1.0, 2).requires_grad_(), random_boxes(6, 1.0, 3).requires_grad_()
    assert torch.autograd.gradcheck(paired_generalized_iou, (boxes, others))
    assert torch.autograd.gradgradcheck(paired_generalized_iou, (boxes, others))


def test_inverse_sigmoid():
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)


def test_inverse_sigmoid_is_bounded_where_boxes_reach_the_border():
    """log(1 / 1e-5) = 11.51 in either direction, also beyond [0, 1], with a finite gradient."""
    x = torch.tensor([-0.5, 0.0, 1.0, 1.5], requires_grad=True)
    found = inverse_sigmoid(x)
    assert found.tolist() == pytest.approx([-11.5129, -11.5129, 11.5129, 11.5129], abs=1e-3)
    assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()


def test_no_pairs():
    assert paired_generalized_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
