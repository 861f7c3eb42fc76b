"""Rounding against the Fisher: by OBQ's own loop and by brute force; scales and biases that go with it."""

import numpy as np
import pytest
import torch

from fisher_detr.quantization import (
    FisherRounding,
    fake_quantize,
    fisher_rounding,
    moment_factors,
    weight_scale,
)
from fisher_detr.structures import QuantSpec, ScaleMethod
from tests.oracles import naive_rounding


def values(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def correlated(num_inputs, groups=1, seed=1):
    """Second moments of inputs that share a few causes."""
    causes = values(groups, num_inputs, 2, seed=seed)
    return causes @ causes.mT + 0.05 * torch.diag_embed(values(groups, num_inputs, seed=seed + 1).exp())


def scaled(weight, spec):
    return weight_scale(weight, spec, ScaleMethod.MSE)


def round_against_fisher(weight, scale, spec, moment, damping=fisher_rounding.DAMPING, descending=True):
    return FisherRounding(weight, moment, damping, descending).round(scale, spec)


def forms(rounded, weight, moment):
    """`d'Hd` of every row, of one group."""
    errors = (rounded - weight).flatten(1)
    return torch.einsum("ck,kl,cl->c", errors, moment, errors)


def by_obq(weight, scale, spec, matrix, order):
    """Every row by the naive loop."""
    rows = zip(weight.numpy(), scale.expand(len(weight)).tolist(), strict=True)
    found = [naive_rounding.obq_row(row, step, spec.qmax, matrix, order) for row, step in rows]
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("block", [1, 5, 128])
def test_equals_obq(monkeypatch, bits, per_channel, descending, block):
    monkeypatch.setattr(fisher_rounding, "_BLOCK", block)
    spec, weight, moment = QuantSpec(bits, per_channel=per_channel), values(6, 17), correlated(17)[0]
    scale = scaled(weight, spec)
    found = round_against_fisher(weight, scale, spec, moment, damping=0.01, descending=descending)
    matrix = naive_rounding.damped(moment.numpy(), 0.01)
    order = np.argsort(-np.diag(matrix)) if descending else np.arange(17)
    expected = by_obq(weight, scale, spec, matrix, order)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, fake_quantize(weight, scale, spec))


def test_against_all_roundings():
    """Between nearest and the best there is, and nearer to the best."""
    spec, rows = QuantSpec(3), []
    for seed in range(20):
        weight, moment = values(1, 5, seed=seed), correlated(5, seed=100 + seed)[0]
        scale = scaled(weight, spec)
        rounded = round_against_fisher(weight, scale, spec, moment, damping=0)
        brute = naive_rounding.best_row(weight[0].numpy(), scale.item(), spec.qmax, moment.numpy())
        candidates = fake_quantize(weight, scale, spec), rounded, torch.from_numpy(brute)[None]
        rows.append([forms(candidate, weight, moment).item() for candidate in candidates])
    nearest, found, best = np.array(rows).T  # [20] each
    assert (found >= best - 1e-12).all() and (nearest >= best - 1e-12).all()
    assert (found < nearest).sum() >= 2 * (found > nearest).sum()
    assert found.sum() - best.sum() < 0.1 * (nearest.sum() - best.sum())


@pytest.mark.parametrize("bits", [2, 3])
def test_without_correlations_nearest_is_best(bits):
    spec, weight, moment = QuantSpec(bits), values(3, 4), torch.diag(values(4, seed=2).exp())
    scale = scaled(weight, spec)
    found = round_against_fisher(weight, scale, spec, moment)
    assert torch.equal(found, fake_quantize(weight, scale, spec))
    for row, s, values_ in zip(weight.numpy(), scale.tolist(), found.numpy(), strict=True):
        assert np.allclose(values_, naive_rounding.best_row(row, s, spec.qmax, moment.numpy()))


def test_one_input_is_rounded_to_nearest():
    spec, weight = QuantSpec(3), values(8, 1, 1, 1)
    scale = torch.full((8,), 0.3, dtype=torch.float64)
    found = round_against_fisher(weight, scale, spec, torch.tensor([[[2.5]]]))
    assert torch.equal(found, fake_quantize(weight, scale, spec))


def test_two_inputs_by_hand():
    """Equal inputs, weights 0.4 and 0.4, steps of 1: to nearest both become 0, and the sum misses by 0.8.

    Here the first becomes 0, and the second, `0.4 + 0.4` with what the first left, 1: the sum misses by 0.2.
    """
    weight, scale, spec = torch.tensor([[0.4, 0.4]]), torch.ones(1), QuantSpec(3)
    assert round_against_fisher(weight, scale, spec, torch.ones(2, 2)).tolist() == [[0.0, 1.0]]
    assert round_against_fisher(weight, scale, spec, torch.ones(2, 2), damping=1e6).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float64])
def test_its_quantizer_keeps_it(bits, per_channel, dtype, scale_dtype):
    spec, weight = QuantSpec(bits, per_channel=per_channel), values(16, 5, 3, 3).to(dtype)
    scale = (scaled(weight.double(), spec) * 0.731).to(scale_dtype)
    found = round_against_fisher(weight, scale, spec, correlated(45))
    again = fake_quantize(found, scale, spec)
    assert found.dtype == dtype and found.shape == weight.shape
    assert torch.equal(again, found) and torch.equal(again.signbit(), found.signbit())
    levels = found.double() / scale.double().view(-1, *[1] * (3 if per_channel else 0))
    assert levels.abs().max() <= spec.qmax * 1.01
    assert (levels - levels.round()).abs().max() < (1e-4 if dtype.itemsize > 2 else 0.5)


def test_groups_are_weights_of_their_own():
    spec, weight, moments = QuantSpec(3), values(6, 2, 3, 3), correlated(18, groups=3)
    scale = scaled(weight, spec)
    found = round_against_fisher(weight, scale, spec, moments)
    parts = [
        round_against_fisher(weight[2 * g : 2 * g + 2], scale[2 * g : 2 * g + 2], spec, moments[g])
        for g in range(3)
    ]
    assert torch.equal(found, torch.cat(parts))


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_inputs_that_are_always_zero_take_no_part(damping):
    spec, weight, moment = QuantSpec(3), values(4, 9), correlated(9)[0]
    alive = torch.tensor([0, 1, 3, 4, 5, 7, 8])
    dead = torch.tensor([2, 6])
    scale = scaled(weight, spec)
    moment[dead], moment[:, dead] = 0, 0
    found = round_against_fisher(weight, scale, spec, moment, damping=damping)
    assert torch.equal(found[:, dead], fake_quantize(weight, scale, spec)[:, dead])
    # The mean of the diagonal is over all nine.
    without = round_against_fisher(
        weight[:, alive], scale, spec, moment[alive][:, alive], damping=damping * 7 / 9
    )
    assert torch.equal(found[:, alive], without)
    nothing = round_against_fisher(weight, scale, spec, torch.zeros(9, 9), damping=damping)
    assert torch.equal(nothing, fake_quantize(weight, scale, spec))


def test_the_scale_of_the_moment_is_irrelevant():
    spec, weight, moment = QuantSpec(3), values(4, 9).float(), correlated(9)[0]
    scale = scaled(weight, spec)
    found = round_against_fisher(weight, scale, spec, moment)
    for factor in (1e-30, 1e20):
        assert torch.equal(round_against_fisher(weight, scale, spec, moment * factor), found)


@pytest.mark.parametrize(
    ("moment", "options", "message"),
    [
        (torch.eye(8), {}, r"moment of shape \(8, 8\) for a weight of shape \(4, 9\): expected \[9, 9\] or"),
        (torch.eye(9).expand(3, 9, 9), {}, "such a matrix for each of its groups"),
        (torch.eye(9) * torch.nan, {}, "non-finite"),
        (-torch.eye(9), {}, "negative diagonal"),
        (2 * torch.ones(9, 9) - torch.eye(9), {}, "not positive definite"),
        (torch.eye(9), {"damping": -1.0}, "damping -1.0: expected"),
    ],
)
def test_mistakes(moment, options, message):
    spec, weight = QuantSpec(3), values(4, 9)
    with pytest.raises(ValueError, match=message):
        round_against_fisher(weight, scaled(weight, spec), spec, moment, **options)


def with_bias(num_inputs, groups=1, seed=1):
    """Second moments of inputs with a mean, and of a last one that is always 1."""
    x = values(groups, 4 * num_inputs, num_inputs, seed=seed) + 2 * values(
        groups, 1, num_inputs, seed=seed + 1
    )
    x = torch.cat([x, torch.ones(*x.shape[:2], 1, dtype=x.dtype)], dim=-1)
    return x.mT @ x


def centred(moment):
    """What is left of H `[K + 1, K + 1]` with the best bias: its Schur complement."""
    return moment[:-1, :-1] - torch.outer(moment[:-1, -1], moment[-1, :-1]) / moment[-1, -1]


@pytest.mark.parametrize("descending", [True, False])
def test_a_bias_leaves_what_has_no_mean(monkeypatch, descending):
    """The same levels as by OBQ under the centred moment; its diagonal decides order and damping."""
    monkeypatch.setattr(moment_factors, "_FLOAT32", [0.0])
    spec, weight, moment = QuantSpec(3), values(6, 9), with_bias(9)[0]
    scale = scaled(weight, spec)
    matrix = naive_rounding.damped(centred(moment).numpy(), 0.01)
    order = np.argsort(-np.diag(matrix)) if descending else np.arange(9)
    expected = by_obq(weight, scale, spec, matrix, order)
    found = round_against_fisher(weight, scale, spec, moment, descending=descending)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found, round_against_fisher(weight, scale, spec, moment[:-1, :-1]))


def test_the_bias_is_the_best_one():
    """By the normal equation of `(d, b)' H (d, b)` in b."""
    moment, error = with_bias(5)[0], 0.1 * values(4, 5, seed=4)
    shift = FisherRounding(values(4, 5), moment, damping=0).bias_shift(error)
    torch.testing.assert_close(shift, -(error @ moment[:-1, -1]) / moment[-1, -1])
    assert FisherRounding(values(4, 5), moment[:-1, :-1]).bias_shift(error) is None


def test_biases_of_groups():
    weight, moments = values(6, 2, 3, 3), with_bias(18, groups=3)
    error = 0.1 * values(6, 2, 3, 3, seed=4)
    found = FisherRounding(weight, moments).bias_shift(error)
    parts = [
        FisherRounding(weight[2 * g : 2 * g + 2], moments[g]).bias_shift(error[2 * g : 2 * g + 2])
        for g in range(3)
    ]
    torch.testing.assert_close(found, torch.cat(parts))


def test_a_layer_without_gradients_keeps_its_bias():
    rounding = FisherRounding(values(4, 5), torch.zeros(6, 6))
    spec, error = QuantSpec(3), values(4, 5)
    assert not rounding.bias_shift(error).any()
    scale = scaled(values(4, 5), spec)
    assert torch.equal(rounding.round(scale, spec), fake_quantize(values(4, 5), scale, spec))


@pytest.mark.parametrize("moment", [correlated(9)[0], with_bias(9)[0], correlated(9, groups=3)])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_no_candidate_scale_is_better(monkeypatch, moment, per_channel, at_once):
    """Every candidate rounded by itself, and its `d'Hd` with the best bias by plain products."""
    monkeypatch.setattr(fisher_rounding, "_AT_ONCE", at_once)
    spec, weight = QuantSpec(3, per_channel=per_channel), values(6, 9)
    first = scaled(weight, spec)
    rounding = FisherRounding(weight, moment, damping=0)
    groups = moment if moment.dim() == 3 else moment[None]
    plain = [centred(m) if m.shape[-1] > 9 else m for m in groups]

    def losses(factor):
        rounded = rounding.round(first * factor, spec)
        parts = zip(rounded.chunk(len(groups)), weight.chunk(len(groups)), plain, strict=True)
        found = torch.cat([forms(part, of, matrix) for part, of, matrix in parts])
        return found if per_channel else found.sum()[None]

    all_losses = torch.stack([losses(factor) for factor in fisher_rounding.FACTORS])
    expected = first * torch.tensor(fisher_rounding.FACTORS, dtype=first.dtype)[all_losses.argmin(dim=0)]
    found = rounding.search_scale(first, spec)
    assert found.shape == first.shape and found.dtype == first.dtype
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert (found != first).any() or not per_channel


def test_inputs_that_never_change_leave_all_to_the_bias():
    """As those of the first layer of a decoder whose queries begin as zeros: nothing is left but rounding."""
    x = values(1, 8).abs().float().expand(500, 8) + 1e-8 * torch.randn(500, 8)
    x = torch.cat([x, torch.ones(500, 1)], dim=1)
    moment, weight, spec = (x.mT @ x).double(), values(4, 8).float(), QuantSpec(3)
    assert torch.linalg.eigvalsh(centred(moment))[0] < 0  # which no factor can have
    rounding = FisherRounding(weight, moment)
    rounded = rounding.round(scaled(weight, spec), spec)
    mean = x[0, :-1].double()
    before = weight.double() @ mean
    after = rounded.double() @ mean + rounding.bias_shift(rounded - weight)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("at_once", [1, 500, 2**24])
def test_all_widths_at_once_are_each_alone(monkeypatch, per_channel, at_once):
    monkeypatch.setattr(fisher_rounding, "_AT_ONCE", at_once)
    weight = values(6, 2, 3, 3).float()
    specs = [QuantSpec(bits, per_channel=per_channel) for bits in (2, 8, 3)]
    scales = [scaled(weight, spec) for spec in specs]
    rounding = FisherRounding(weight, correlated(18, groups=3))
    found = rounding.search_scales(scales, specs)
    alone = [rounding.search_scale(*pair) for pair in zip(scales, specs, strict=True)]
    assert all(map(torch.equal, found, alone)) and not any(map(torch.equal, found, scales))
    rounded = rounding.round_widths(found, specs)
    assert all(map(torch.equal, rounded, map(rounding.round, found, specs)))


def test_as_many_scales_as_widths():
    rounding, scale = FisherRounding(values(6, 5), correlated(5)), torch.ones(6)
    for scales, specs in ([scale, scale], [QuantSpec(3)]), ([], [QuantSpec(3)]), ([], []):
        message = f"{len(scales)} scales and {len(specs)} widths: expected as many"
        with pytest.raises(ValueError, match=message):
            rounding.round_widths(scales, specs)
    with pytest.raises(ValueError, match="26 scales and 13 widths"):  # each is tried at 13 scales
        rounding.search_scales([scale, scale], [QuantSpec(3)])
