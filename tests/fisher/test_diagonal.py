import numpy as np
import pytest
import torch
from curvlinops import EFLinearOperator
from torch import nn

from fisher_detr.fisher import GradientMethod, PassSettings, estimate_fisher
from fisher_detr.structures import Combination, Objective
from tests.oracles.naive_fisher import image_gradients

QUIET = PassSettings(progress=False)
SINGLE = PassSettings(GradientMethod.SINGLE, progress=False)

PAIRS = {"overall": ("overall",) * 2, "cross": ("overall", "critical"), "critical": ("critical",) * 2}


@pytest.fixture(params=[QUIET, SINGLE], ids=["batched", "single"])
def estimate(request):
    return lambda toy: estimate_fisher(toy.loss, toy.parameters, toy.batches, request.param)


def single(loss_fn, weight, samples):
    """The estimate of one weight, from scalar losses of a sample's parts."""

    def losses(batch):
        return {name: loss[None] for name, loss in loss_fn(*batch[0]).items()}

    return estimate_fisher(losses, {"w": weight}, [[sample] for sample in samples], SINGLE)


def naive_diagonal(stacks, term, layer):
    left, right = (stacks[objective][layer] for objective in PAIRS[term])
    return (left * right).mean(dim=0)


def test_equals_a_naive_loop_in_float64(estimate, toy):
    fisher = estimate(toy)
    stacks = image_gradients(toy.loss_alone, toy.parameters, toy.samples)
    assert fisher.num_images == 8
    for term in PAIRS:
        for layer, weight in toy.parameters.items():
            found, expected = fisher.diagonals[term][layer], naive_diagonal(stacks, term, layer)
            assert found.shape == weight.shape
            assert found.dtype == torch.float64
            allowed = 1e-8 * expected.abs() + 1e-14 * expected.abs().max()
            assert ((found.flatten() - expected).abs() <= allowed).all(), (term, layer)


def test_float32_model_within_1e_5_of_the_float64_one(estimate, toy, toy32):
    fisher, fisher32 = estimate(toy), estimate(toy32)
    for layer, expected in fisher.diagonals["overall"].items():
        found = fisher32.diagonals["overall"][layer]
        assert found.dtype == torch.float64
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_traces_and_their_standard_errors(estimate, toy):
    fisher = estimate(toy)
    stacks = image_gradients(toy.loss_alone, toy.parameters, toy.samples)
    for term, (first, second) in PAIRS.items():
        for row, layer in enumerate(toy.parameters):
            products = (stacks[first][layer] * stacks[second][layer]).sum(dim=1).numpy()
            assert fisher.traces[term][row] == pytest.approx(products.mean(), rel=1e-12, abs=1e-18)
            error = products.std(ddof=1) / np.sqrt(8)
            assert fisher.trace_errors[term][row] == pytest.approx(error, rel=1e-12, abs=1e-18)
            total = fisher.diagonals[term][layer].sum().item()
            assert fisher.traces[term][row] == pytest.approx(total, rel=1e-12, abs=1e-18)


def test_unused_layers_and_dead_units_are_zero(estimate, toy):
    overall = estimate(toy).diagonals["overall"]
    assert not overall["unused"].any()
    assert not overall["conv"][0].any()
    assert overall["conv"][1:].any()


def test_equals_curvlinops_where_it_applies(estimate, toy):
    """Its empirical Fisher with reduction "mean" is `1/N sum g g'`."""
    data = [(image[None], label[None]) for image, label in toy.samples]
    weights = [toy.parameters[name] for name in ("conv", "twice", "head")]
    operator = EFLinearOperator(toy.model, nn.CrossEntropyLoss(), weights, data)
    dense = operator @ torch.eye(operator.shape[1], dtype=torch.float64)
    found = torch.cat([estimate(toy).diagonals["overall"][k].flatten() for k in ("conv", "twice", "head")])
    torch.testing.assert_close(found, dense.diag(), rtol=1e-10, atol=1e-16)


def test_linear_regression_in_closed_form():
    # L = (w'x - y)^2 / 2, g = (w'x - y) x. At w = (1, -1):
    # x = (2, 1), y = 0: residual 1, g = (2, 1); x = (0, 3), y = -1: residual -2, g = (0, -6).
    # E[g^2] = ((4 + 0) / 2, (1 + 36) / 2) = (2, 18.5), trace 20.5, from (5, 36): error |5 - 36| / 2.
    weight = nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    samples = [(torch.tensor([2.0, 1.0]).double(), 0.0), (torch.tensor([0.0, 3.0]).double(), -1.0)]
    fisher = single(lambda x, y: {"loss": (weight @ x - y).square() / 2}, weight, samples)
    assert fisher.diagonals["loss"]["w"].tolist() == [2.0, 18.5]
    assert fisher.traces["loss"].tolist() == [20.5]
    assert fisher.trace_errors["loss"].tolist() == pytest.approx([15.5])


def test_softmax_regression_in_closed_form():
    """`g = (p - e_y) x'`; over labels drawn evenly as p says, `E[g^2] = p (1 - p) x^2`: the true Fisher."""
    logits = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log()
    weight = nn.Parameter(torch.diag(logits))
    ones = torch.ones(3, dtype=torch.float64)
    samples = [(label,) for label in (0, 1, 2, 2)]  # in the proportions of p
    fisher = single(
        lambda y: {"loss": nn.functional.cross_entropy(weight @ ones, torch.tensor(y))}, weight, samples
    )
    p = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(fisher.diagonals["loss"]["w"], (p * (1 - p))[:, None].expand(3, 3))


def of_several_sets():
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    return single(
        lambda x: {
            "overall": x * weight.sum(),
            "critical:person": weight[0],
            "critical:sign": 2 * weight[0],
            "other": weight[1],
        },
        weight,
        [(1.0,), (3.0,)],
    )


def test_several_sets_have_their_own_terms_and_those_with_the_first():
    found = {term: of["w"].tolist() for term, of in of_several_sets().diagonals.items()}
    assert found == {
        "overall": [5.0, 5.0],  # (1 + 9) / 2
        "cross:person": [2.0, 0.0],
        "critical:person": [1.0, 0.0],
        "cross:sign": [4.0, 0.0],
        "critical:sign": [4.0, 0.0],
        "overall*other": [0.0, 2.0],
        "other": [0.0, 1.0],
    }


def test_one_set_of_several():
    sign = of_several_sets().of_set("sign")
    assert {term: of["w"].tolist() for term, of in sign.diagonals.items()} == {
        "overall": [5.0, 5.0],
        "cross": [4.0, 0.0],
        "critical": [4.0, 0.0],
    }
    assert {term: trace.tolist() for term, trace in sign.traces.items()} == {
        "overall": [10.0],
        "cross": [4.0],
        "critical": [4.0],
    }
    with pytest.raises(ValueError, match=r"no critical set 'animal' .* has \['person', 'sign'\]"):
        of_several_sets().of_set("animal")


def test_two_runs_agree_exactly(estimate, toy32):
    first, second = estimate(toy32), estimate(toy32)
    for term in PAIRS:
        assert (first.image_traces[term] == second.image_traces[term]).all()
        assert all(torch.equal(v, second.diagonals[term][k]) for k, v in first.diagonals[term].items())


def test_a_perfectly_fitted_image_has_no_information():
    weight = nn.Parameter(torch.ones(2))
    fisher = single(lambda y: {"overall": (weight.sum() - y).square()}, weight, [(2.0,)])
    assert fisher.traces["overall"].tolist() == [0.0]
    with pytest.raises(ValueError, match="trace of 'overall' is 0"):
        fisher.combined(Objective(critical_weight=0.0))


def test_combined_diagonal(estimate, toy):
    fisher = estimate(toy)
    stacks = image_gradients(toy.loss_alone, toy.parameters, toy.samples)
    square = fisher.combined(Objective(1.5, 0.5, Combination.SQUARE_OF_SUM))
    normalized = fisher.combined(Objective(1.5, 0.5, Combination.SUM_OF_NORMALIZED))
    totals = {o: sum(g.square().sum() / 8 for g in of.values()) for o, of in stacks.items()}
    for layer, weight in toy.parameters.items():
        a, f = stacks["overall"][layer], stacks["critical"][layer]
        expected = (1.5 * a + 0.5 * f).square().mean(dim=0).view_as(weight)
        torch.testing.assert_close(square[layer], expected, rtol=1e-10, atol=1e-16)
        expected = (
            1.5 * a.square().mean(0) / totals["overall"] + 0.5 * f.square().mean(0) / totals["critical"]
        )
        torch.testing.assert_close(normalized[layer], expected.view_as(weight), rtol=1e-10, atol=1e-16)


def test_one_image_at_a_time_takes_any_operator():
    """There is nothing to tell apart; and nothing is multiplied that autograd would not have formed."""
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    images = [torch.tensor([0.5, 3.0], dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64)]

    def loss(batch):
        return {"overall": torch.stack([(weight * image).sum() for image in batch])}

    found = estimate_fisher(loss, {"w": weight}, [[image] for image in images], PassSettings(progress=False))
    expected = torch.stack(images).square().mean(dim=0)
    torch.testing.assert_close(found.diagonals["overall"]["w"], expected)
    with pytest.raises(ValueError, match="only linear layers and convolutions"):
        estimate_fisher(loss, {"w": weight}, [images], PassSettings(progress=False))
