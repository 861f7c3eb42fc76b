"""Dropout: how much is dropped, what is left, its gradient, and eval mode."""

import pytest
import torch

from fisher_detr.layers import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_part_that_is_dropped_and_value_of_the_rest(p):
    """Of 1e5 numbers, p within five standard deviations; the rest is scaled up."""
    torch.manual_seed(0)
    found = dropout(torch.ones(100_000), p)
    dropped = float((found == 0).float().mean())
    assert abs(dropped - p) < 5 * (p * (1 - p) / 1e5) ** 0.5
    torch.testing.assert_close(found[found != 0], torch.full_like(found[found != 0], 1 / (1 - p)))


def test_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    x = torch.randn(1000, dtype=torch.float64, requires_grad=True)
    found = dropout(x, 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, found.detach() / x.detach())


def test_seed_decides():
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(dropout(torch.ones(50), 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_eval_mode_and_p_of_zero_change_nothing():
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x
