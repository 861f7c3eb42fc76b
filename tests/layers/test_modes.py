"""Temporary modes: what changes within, and that all is as before afterwards."""

import pytest
import torch
from torch import nn

from fisher_detr.layers import (
    Levels,
    MSDeformAttn,
    MultiheadAttention,
    in_eval_mode,
    twice_differentiable,
)

SHAPES = ((4, 5), (2, 3))
TOKENS = 4 * 5 + 2 * 3


def modes_of(model):
    return [module.training for module in model.modules()]


def test_eval_mode_within_and_each_modules_own_afterwards():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(), nn.ReLU()), nn.Dropout())
    model[0].eval()  # a frozen norm in a model that is trained
    model[1].training = False  # a parent apart from its children
    before = modes_of(model)
    assert len(set(before)) == 2
    for error in (None, ZeroDivisionError):
        try:
            with in_eval_mode(model):
                assert not any(modes_of(model))
                if error:
                    raise error
        except ZeroDivisionError:
            pass
        assert modes_of(model) == before


class Both(nn.Module):
    """Deformable sampling, and attention."""

    def __init__(self):
        super().__init__()
        self.first = MSDeformAttn(16, num_heads=2, num_levels=2, num_points=3)
        self.second = MSDeformAttn(16, num_heads=2, num_levels=2, num_points=3)
        self.attention = MultiheadAttention(16, 2)

    def forward(self, tokens):
        levels = Levels.from_shapes(SHAPES)
        reference = torch.full((len(tokens), TOKENS, 2, 2), 0.4)
        for layer in (self.first, self.second):
            tokens = layer(tokens, reference, tokens, levels)
        return self.attention(tokens, tokens, tokens)


def make_both(dtype=torch.float64):
    torch.manual_seed(0)
    model = Both().to(dtype)
    for module in (model.first, model.second):  # otherwise every query looks at the same places
        nn.init.normal_(module.sampling_offsets.weight, std=0.1)
    tokens = torch.randn(1, TOKENS, 16, dtype=dtype, requires_grad=True)
    return model, tokens


@pytest.mark.parametrize("fails", [True, False])
def test_operators_are_as_before_afterwards(fails):
    model, tokens = make_both()
    backends = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
    try:
        with twice_differentiable():
            assert not torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.math_sdp_enabled()
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert backends == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(model, tokens)


def test_numbers_are_the_same():
    model, tokens = make_both()
    expected = model(tokens)
    with twice_differentiable():
        torch.testing.assert_close(model(tokens), expected)


def second_derivative(model, tokens):
    (gradient,) = torch.autograd.grad(model(tokens).square().sum(), tokens, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), tokens)[0]


def test_second_derivative_exists_within_alone():
    """And it is that of differences of the gradient."""
    model, tokens = make_both()
    with pytest.raises(RuntimeError, match="not implemented"):
        second_derivative(model, tokens)
    with twice_differentiable():
        found = second_derivative(model, tokens)
        direction = torch.randn(tokens.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        values = []
        for step in (1e-6, -1e-6):
            moved = (tokens + step * direction).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(model(moved).square().sum(), moved)
            values.append(gradient.square().sum().item())
    expected = (values[0] - values[1]) / 2e-6
    assert (found * direction).sum().item() == pytest.approx(expected, rel=1e-5)
