"""Weight scales against brute force in float64."""

import pytest
import torch

from fisher_detr.quantization import quantization_error, weight_scale
from fisher_detr.quantization.scales import GRID_SIZE, SMALLEST_FACTOR
from fisher_detr.structures import QuantSpec, ScaleMethod


def brute_force_scale(weights, importance, qmax):
    """The best scale of one row over the grid, by plain Python."""
    largest = max(abs(w) for w in weights)
    if largest == 0:
        return 1.0
    if sum(importance) == 0:
        importance = [1.0] * len(weights)
    errors = []
    for i in range(GRID_SIZE):
        scale = largest / qmax * SMALLEST_FACTOR ** (i / (GRID_SIZE - 1))
        rounded = [min(max(round(w / scale), -qmax), qmax) * scale for w in weights]
        errors.append(
            (sum(f * (q - w) ** 2 for f, q, w in zip(importance, rounded, weights, strict=True)), i, scale)
        )
    return min(errors)[2]


def error_of(weight, scale, spec, importance):
    scale = scale.double().view(-1, 1)
    rows = (weight if spec.per_channel else weight.view(1, -1)).double()
    importance = importance.double().view_as(rows)
    quantized = (rows / scale).round().clamp(spec.qmin, spec.qmax) * scale
    return (importance * (quantized - rows) ** 2).sum(1)


def heavy_tailed(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** 3


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("method", list(ScaleMethod))
def test_equals_brute_force(bits, per_channel, method):
    spec = QuantSpec(bits, per_channel=per_channel)
    weight, fisher = heavy_tailed(5, 40), heavy_tailed(5, 40, seed=1).square() * 1e-12
    weight[1], fisher[2] = 0, 0
    found = weight_scale(weight, spec, method, fisher)
    if method == ScaleMethod.MAX:
        rows = weight if per_channel else weight.view(1, -1)
        expected = [max(map(abs, row)) / spec.qmax or 1.0 for row in rows.tolist()]
    else:
        weighting = torch.ones_like(weight) if method == ScaleMethod.MSE else fisher
        view = (lambda x: x.tolist()) if per_channel else (lambda x: [x.flatten().tolist()])
        expected = [
            brute_force_scale(*rows, spec.qmax) for rows in zip(view(weight), view(weighting), strict=True)
        ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", [ScaleMethod.MSE, ScaleMethod.FISHER])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_float32_is_as_good_and_never_worse_than_max(method, bits):
    spec = QuantSpec(bits)
    weight, fisher = heavy_tailed(16, 300).float(), heavy_tailed(16, 300, seed=1).square()
    importance = torch.ones_like(fisher) if method == ScaleMethod.MSE else fisher
    found = error_of(weight, weight_scale(weight, spec, method, fisher), spec, importance)
    best = error_of(weight, weight_scale(weight.double(), spec, method, fisher), spec, importance)
    largest = error_of(weight, weight_scale(weight, spec, ScaleMethod.MAX), spec, importance)
    assert (found <= best * (1 + 1e-5)).all()
    assert (found <= largest * (1 + 1e-6)).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("per_channel", [True, False])
def test_grid_is_close_to_a_fine_search(bits, per_channel):
    spec = QuantSpec(bits, per_channel=per_channel)
    weight, ones = heavy_tailed(4, 500), torch.ones(4, 500)
    found = error_of(weight, weight_scale(weight, spec, ScaleMethod.MSE), spec, ones)
    largest = weight_scale(weight, spec, ScaleMethod.MAX)
    fine = torch.stack([error_of(weight, largest * f, spec, ones) for f in torch.logspace(-2.5, 0, 600)])
    assert (found <= fine.amin(0) * 1.01).all()


def test_tiny_fisher_and_tiny_weights():
    weight, fisher = heavy_tailed(4, 50).float(), heavy_tailed(4, 50, seed=1).square()
    spec = QuantSpec(3)
    expected = weight_scale(weight, spec, ScaleMethod.FISHER, fisher)
    assert torch.equal(weight_scale(weight, spec, ScaleMethod.FISHER, fisher * 2.0**-200), expected)
    for method in ScaleMethod:
        scale = weight_scale(weight * 1e-44, spec, method, fisher)
        assert (scale > 0).all() and torch.isfinite(scale).all()


def test_error_is_the_difference_and_zero_for_zeros():
    weight = heavy_tailed(3, 10).float()
    error = quantization_error(weight, 4, ScaleMethod.MSE)
    scale = weight_scale(weight, QuantSpec(4), ScaleMethod.MSE)[:, None]
    levels = (weight + error) / scale
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-5)
    assert quantization_error(torch.zeros(2, 3), 2).abs().max() == 0


@pytest.mark.parametrize(
    ("fisher", "message"),
    [
        (None, "needs the Fisher diagonal"),
        (torch.ones(3), "shape"),
        (-torch.ones(2, 2), "negative or non-finite"),
        (torch.full((2, 2), torch.inf), "negative or non-finite"),
    ],
)
def test_wrong_fisher(fisher, message):
    with pytest.raises(ValueError, match=message):
        weight_scale(torch.ones(2, 2), QuantSpec(4), ScaleMethod.FISHER, fisher)


def test_weight_that_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        weight_scale(torch.tensor([[1.0, torch.nan]]), QuantSpec(4), ScaleMethod.MAX)
