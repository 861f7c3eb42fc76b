"""Hessian traces against the whole Hessian, and where signs have no variance."""

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from fisher_detr.fisher import estimate_hessian_traces, hawq_sensitivity
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable
from tests.oracles.exact_hessian import layer_traces

WIDTHS = (2, 3, 8)


# Thousands of tiny operators: threads would only wait for each other on a busy machine.
pytestmark = pytest.mark.usefixtures("one_thread")


def estimate(toy, num_probes=4, batches=None, loss=None, seed=0):
    return estimate_hessian_traces(
        loss or toy.loss, toy.parameters, batches or toy.batches, num_probes, seed, progress=False
    )


def exact(toy, objective, samples):
    """Traces of the Hessian of the mean loss, `[L]`."""
    names = [f"{name}.weight" for name in toy.parameters]
    model = toy.model

    def mean_loss(*weights):
        toy.model = lambda images: functional_call(model, dict(zip(names, weights, strict=True)), (images,))
        try:
            return toy.loss(samples)[objective].mean()
        finally:
            toy.model = model

    return np.array(layer_traces(mean_loss, [weight.detach() for weight in toy.parameters.values()]))


def test_equals_the_exact_trace_within_its_errors(toy):
    """All 8 images in one batch, then in batches: probes are the only noise either way."""
    for batches in ([toy.samples], toy.batches):
        num_probes = 2000 // len(batches)
        found = estimate(toy, num_probes, batches)
        assert found.num_images == 8 and found.samples["overall"].shape == (len(batches), num_probes, 4)
        for objective in toy.objectives:
            trace, error = found.traces[objective], found.probe_errors[objective]
            expected = exact(toy, objective, toy.samples)
            assert (np.abs(trace - expected) <= 4 * error + 1e-15).all()
            assert (error < 0.2 * np.abs(expected).max()).all()  # tight enough to tell
            assert trace[3] == expected[3] == 0.0  # the unused layer


def test_curvlinops_has_the_same_trace(toy):
    images, labels = (torch.stack(parts) for parts in zip(*toy.samples, strict=True))
    found = estimate(toy, 1000)
    for row, (name, weight) in enumerate(list(toy.parameters.items())[:3]):
        operator = HessianLinearOperator(toy.model, nn.CrossEntropyLoss(), [weight], [(images, labels)])
        expected = (operator @ torch.eye(weight.numel(), dtype=weight.dtype)).trace().item()
        error = found.probe_errors["overall"][row]
        assert abs(found.traces["overall"][row] - expected) <= 4 * error, name


def test_a_diagonal_hessian_has_no_variance():
    """`L_x = sum_i x w_i^4 / 12`, whose Hessian is `diag(x w_i^2)`: every probe gives its trace exactly.

    Images 1, 2, 6 and w = (1, 2, 3), u = (1, -1): traces 3 (1 + 4 + 9) = 42 and 3 (1 + 1) = 6 of the mean
    loss, whose factor is (1 + 2 + 6) / 3 = 3.
    """
    weights = {"w": torch.tensor([1.0, 2.0, 3.0]).double(), "u": torch.tensor([1.0, -1.0]).double()}

    def loss(batch):
        total = sum((weight**4).sum() for weight in weights.values()) / 12
        return {"overall": torch.tensor(batch) * total, "linear": torch.tensor(batch) * weights["w"].sum()}

    found = estimate_hessian_traces(loss, weights, [[1.0, 2.0], [6.0]], 3, progress=False)
    np.testing.assert_allclose(found.samples["overall"][0], 3 * [[42.0, 6.0]], rtol=1e-14)  # x = 1 + 2
    np.testing.assert_allclose(found.samples["overall"][1], 3 * [[84.0, 12.0]], rtol=1e-14)  # x = 6
    np.testing.assert_allclose(found.traces["overall"], [42.0, 6.0], rtol=1e-14)
    np.testing.assert_allclose(found.probe_errors["overall"], 0.0, atol=1e-14)
    assert not found.traces["linear"].any()
    assert not any(weight.requires_grad for weight in weights.values())  # as they were
    # Sums 42 and 84 of 2 and 1 images, 126 / 3 = 42 for each: residuals 42 - 84 and 84 - 42, so
    # sqrt((42^2 + 42^2) / 1) / sqrt(2) * 2 / 3 = 28.
    assert found.standard_errors["overall"][0] == pytest.approx(28.0)


def test_standard_errors_cover_images_and_probes(toy):
    """Spread of many runs on images drawn anew, each with few probes, against what one run says of itself."""
    generator = torch.Generator().manual_seed(1)
    traces, errors = [], []
    for seed in range(150):
        rows = torch.randint(8, (12,), generator=generator).tolist()
        found = estimate(toy, 1, [[toy.samples[row]] for row in rows], seed=seed)
        traces.append(found.traces["overall"][:3])
        errors.append(found.standard_errors["overall"][:3])
    spread, said = np.std(traces, axis=0, ddof=1), np.sqrt(np.mean(np.square(errors), axis=0))
    np.testing.assert_allclose(said, spread, rtol=0.25)


def test_probes_follow_from_the_seed_and_the_batch_alone(toy):
    first, again, other = estimate(toy), estimate(toy), estimate(toy, seed=1)
    swapped = estimate(toy, loss=lambda batch: dict(reversed(toy.loss(batch).items())))
    for objective in toy.objectives:
        assert (first.samples[objective] == again.samples[objective]).all()
        assert (first.samples[objective] == swapped.samples[objective]).all()
        assert (first.samples[objective][..., :3] != other.samples[objective][..., :3]).any()
    alike = estimate(toy, batches=[toy.samples[:3], toy.samples[:3]])
    assert (alike.samples["overall"][0] != alike.samples["overall"][1]).any()


def test_sensitivity_is_the_mean_trace_times_the_squared_error(toy, tmp_path):
    found = estimate(toy)
    table = hawq_sensitivity(found, toy.parameters, toy.error, toy.layers[::-1], WIDTHS, {"seed": 3})
    assert table.form == SensitivityForm.HAWQ_TRACE
    assert table.meta == {"seed": 3, "num_images": 8, "num_probes": 4}
    assert list(table.terms) == ["overall", "critical"]
    for objective in toy.objectives:
        for row, layer in enumerate(table.layers):
            trace = found.traces[objective][found.layers.index(layer.name)]
            error = found.standard_errors[objective][found.layers.index(layer.name)]
            assert table.traces[objective][row] == max(trace, 0.0)
            for column, bits in enumerate(WIDTHS):
                squared = (toy.error(layer.name, bits) ** 2).sum().item()
                cost, noise = (x / layer.numel * squared for x in (max(trace, 0.0), error))
                assert table.terms[objective][row, column] == pytest.approx(cost, rel=1e-12, abs=0)
                assert table.standard_errors[objective][row, column] == pytest.approx(noise, rel=1e-12)
    table.save(tmp_path / "table.json")
    assert SensitivityTable.load(tmp_path / "table.json").form == SensitivityForm.HAWQ_TRACE


def test_a_layer_that_curves_downwards_costs_nothing():
    weight = torch.ones(2, dtype=torch.float64)

    def loss(batch):
        return {"overall": -torch.ones(len(batch)) * (weight**2).sum()}

    found = estimate_hessian_traces(loss, {"w": weight}, [[0]], 2, progress=False)
    assert found.traces["overall"] == -4.0
    table = hawq_sensitivity(found, {"w": weight}, lambda *_: weight, [LayerInfo("w", 2, 1)], WIDTHS)
    assert not table.terms["overall"].any() and table.traces["overall"] == 0.0
    assert table.standard_errors == {}  # one batch
    assert np.isinf(found.standard_errors["overall"]).all()


def test_a_critical_set_among_several(toy):
    def several(batch):
        losses = toy.loss(batch)
        return {
            "overall": losses["overall"],
            "critical:a": losses["critical"],
            "critical:b": losses["overall"],
        }

    found, expected = estimate(toy, loss=several).of_set("a"), estimate(toy)
    for objective in toy.objectives:
        assert (found.samples[objective] == expected.samples[objective]).all()


def test_float32_model_within_1e_4_of_the_float64_one(toy, toy32):
    expected, found = estimate(toy), estimate(toy32)
    for objective in toy.objectives:
        scale = np.abs(expected.samples[objective]).max()
        np.testing.assert_allclose(
            found.samples[objective], expected.samples[objective], rtol=0, atol=1e-4 * scale
        )


def test_a_batch_whose_loss_is_constant_counts_as_flat(toy):
    """As of images without objects."""

    def loss(batch):
        losses = toy.loss(batch)
        return losses if len(batch) == 3 else {name: loss.detach() for name, loss in losses.items()}

    found, whole = estimate(toy, loss=loss), estimate(toy)
    assert not found.samples["overall"][2].any()
    assert (found.samples["overall"][:2] == whole.samples["overall"][:2]).all()
    with pytest.raises(ValueError, match=r"losses \['critical', 'overall'\] have no gradient on any image"):
        estimate(toy, loss=lambda batch: {name: loss.detach() for name, loss in toy.loss(batch).items()})


class OnceSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_refuses_operators_without_a_second_derivative(toy):
    def marked(batch):
        return {
            name: loss + OnceSquare.apply(toy.parameters["head"]).sum()
            for name, loss in toy.loss(batch).items()
        }

    with pytest.raises(ValueError, match="without a second derivative .*take a form of the sensitivity"):
        estimate(toy, loss=marked)

    def unimplemented(batch):
        query = toy.parameters["twice"].expand(len(batch), 1, 4, 4)
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            attended = nn.functional.scaled_dot_product_attention(query, query, query)
        return {"overall": attended.flatten(1).sum(1)}

    with pytest.raises(ValueError, match="without a second derivative .*not implemented.*take a form"):
        estimate(toy, loss=unimplemented)
    assert all(weight.requires_grad and weight.grad is None for weight in toy.parameters.values())


def test_refuses_what_has_no_trace(toy):
    with pytest.raises(ValueError, match="0 probes"):
        estimate(toy, 0)
    with pytest.raises(ValueError, match="no images"):
        estimate_hessian_traces(toy.loss, toy.parameters, [], progress=False)
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        estimate(toy, loss=lambda batch: {"overall": toy.loss(batch)["overall"].mean()})
    with pytest.raises(
        ValueError, match=r"image 6 has objectives \['overall'\], expected \['overall', 'crit"
    ):
        estimate(toy, loss=lambda batch: dict(list(toy.loss(batch).items())[: len(batch) - 1]))
    with pytest.raises(ValueError, match="^loss 'overall' of image 0 is inf: check the image, its labels"):
        estimate(toy, loss=lambda batch: {n: loss * float("inf") for n, loss in toy.loss(batch).items()})
    with pytest.raises(ValueError, match="'overall' on images 0 to 2 is not finite in layer 'conv'"):
        estimate(toy, loss=lambda batch: {n: (x - x.detach()).sqrt() for n, x in toy.loss(batch).items()})
    with pytest.raises(ValueError, match=r"\['other'\] have no weights"):
        hawq_sensitivity(estimate(toy), toy.parameters, toy.error, [LayerInfo("other", 4, 1)], WIDTHS)
    with pytest.raises(ValueError, match=r"'head' at 2 bits has shape \(1,\), expected \(3, 4\)"):
        hawq_sensitivity(estimate(toy), toy.parameters, lambda *_: torch.zeros(1), toy.layers[2:3], WIDTHS)


def test_goes_on_where_it_stopped(toy):
    whole, known, calls = estimate(toy), {}, []

    def counted(batch):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return toy.loss(batch)

    arguments = toy.parameters, toy.batches, 4, 0, False
    with pytest.raises(KeyboardInterrupt):
        estimate_hessian_traces(counted, *arguments, on_batch=known.__setitem__)
    assert len(known) == 2
    calls.clear()
    found = estimate_hessian_traces(counted, *arguments, known=known)
    assert len(calls) == 1
    for objective in toy.objectives:
        np.testing.assert_array_equal(found.samples[objective], whole.samples[objective])
    np.testing.assert_array_equal(found.batch_sizes, whole.batch_sizes)


def test_all_batches_may_be_known(toy):
    known = {}
    whole = estimate_hessian_traces(
        toy.loss, toy.parameters, toy.batches, 2, 0, False, on_batch=known.__setitem__
    )
    found = estimate_hessian_traces(None, toy.parameters, toy.batches, 2, 0, False, known=known)
    for objective in toy.objectives:
        np.testing.assert_array_equal(found.samples[objective], whole.samples[objective])
