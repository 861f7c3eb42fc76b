import numpy as np
import pytest
import torch
from curvlinops import EFLinearOperator
from torch import nn

from fisher_detr.fisher import (
    GradientMethod,
    LayerError,
    PassSettings,
    estimate_fisher,
    estimate_sensitivity,
)
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable
from tests.oracles.naive_fisher import fisher_matrix, image_gradients

PAIRS = {"overall": ("overall",) * 2, "cross": ("overall", "critical"), "critical": ("critical",) * 2}
WIDTHS = (2, 3, 8)
QUIET = PassSettings(progress=False)
SINGLE = PassSettings(GradientMethod.SINGLE, progress=False)
BLOCK, DIAGONAL = SensitivityForm.BLOCK, SensitivityForm.DIAGONAL


def estimate(toy, layers=None, batches=None, form=BLOCK, settings=QUIET):
    return estimate_sensitivity(
        toy.loss,
        toy.parameters,
        batches or toy.batches,
        toy.error,
        layers or toy.layers,
        WIDTHS,
        form,
        settings,
    )


def naive_terms(stacks, layer, error, form):
    """The form on each image by term, `[N]`."""
    values = {}
    for term, pair in PAIRS.items():
        left, right = (stacks[objective][layer].detach() for objective in pair)
        if form is BLOCK:
            values[term] = ((left @ error) * (right @ error)).numpy()
        else:
            values[term] = (left * right * error.square()).sum(dim=1).numpy()
    return values


@pytest.mark.parametrize("settings", [QUIET, SINGLE], ids=["batched", "single"])
@pytest.mark.parametrize("form", [BLOCK, DIAGONAL])
def test_equals_a_naive_loop(toy, form, settings):
    table = estimate(toy, form=form, settings=settings).table({"seed": 3})
    stacks = image_gradients(toy.loss_alone, toy.parameters, toy.samples)
    assert table.form == form
    assert table.meta == {"seed": 3, "num_images": 8}
    for row, layer in enumerate(toy.layers):
        for column, bits in enumerate(WIDTHS):
            error = toy.error(layer.name, bits).flatten().detach()
            for term, values in naive_terms(stacks, layer.name, error, form).items():
                assert table.terms[term][row, column] == pytest.approx(values.mean(), rel=1e-9, abs=1e-18)
                expected = pytest.approx(values.std(ddof=1) / np.sqrt(8), rel=1e-9, abs=1e-18)
                assert table.standard_errors[term][row, column] == expected


def with_shifts(toy):
    """The error of every layer but one adds to the bias as well."""

    def error(name, bits):
        weight = toy.error(name, bits)
        return weight if name == "head" else LayerError(weight, weight.flatten(1).sum(dim=1) + 0.1)

    return error


def test_what_is_added_to_biases_counts_in_the_block_form(toy):
    """`(g_w'd + g_b'e)^2` of every image, by autograd; the layer "twice" runs twice."""
    error = with_shifts(toy)
    found = estimate_sensitivity(
        toy.loss, toy.parameters, toy.batches, error, toy.layers, WIDTHS, settings=QUIET
    )
    for row, layer in enumerate(toy.layers):
        module = getattr(toy.model, layer.name)
        for column, bits in enumerate(WIDTHS):
            part = error(layer.name, bits)
            parts = (part, torch.zeros(3)) if layer.name == "head" else (part.weight, part.bias)
            for image, sample in enumerate(toy.samples):
                for objective, loss in toy.loss_alone(sample).items():
                    gradients = torch.autograd.grad(
                        loss, (module.weight, module.bias), allow_unused=True, retain_graph=True
                    )
                    expected = sum(
                        (g * e).sum().item() for g, e in zip(gradients, parts, strict=True) if g is not None
                    )
                    assert found.image_linear[objective][image, row, column] == pytest.approx(
                        expected, rel=1e-9, abs=1e-16
                    )
    diagonal = estimate_sensitivity(
        toy.loss, toy.parameters, toy.batches, error, toy.layers, WIDTHS, DIAGONAL, QUIET
    )
    without = estimate(toy, form=DIAGONAL)
    for term, values in without.image_terms.items():
        np.testing.assert_array_equal(diagonal.image_terms[term], values)


def test_broken_images_have_no_row_for_their_biases(toy):
    def loss(batch):
        losses = toy.loss(batch)
        broken = torch.tensor([sample[0] is toy.samples[4][0] for sample in batch])
        return losses | {"critical": torch.where(broken, float("nan"), losses["critical"])}

    settings = PassSettings(skip_broken=True, progress=False)
    arguments = toy.parameters, toy.batches, with_shifts(toy), toy.layers, WIDTHS
    found = estimate_sensitivity(loss, *arguments, settings=settings)
    whole = estimate_sensitivity(toy.loss, *arguments, settings=QUIET)
    kept = [0, 1, 2, 3, 5, 6, 7]
    for objective, values in whole.image_linear.items():
        np.testing.assert_allclose(found.image_linear[objective], values[kept], rtol=1e-12, atol=1e-18)


def test_refuses_what_does_not_fit_biases(toy):
    def estimate_with(error, settings=QUIET):
        estimate_sensitivity(
            toy.loss, toy.parameters, toy.batches, error, toy.layers, WIDTHS, settings=settings
        )

    with pytest.raises(ValueError, match="the method single does not give: take batched"):
        estimate_with(with_shifts(toy), SINGLE)
    with pytest.raises(ValueError, match=r"shift of the bias of layer 'conv' at 2 bits has shape \(3,\)"):
        estimate_with(lambda name, bits: LayerError(toy.error(name, bits), torch.zeros(3)))


@pytest.mark.parametrize("form", [BLOCK, DIAGONAL])
def test_equals_the_explicit_quadratic_form(toy, form):
    table = estimate(toy, form=form).table()
    stacks = image_gradients(toy.loss_alone, toy.parameters, toy.samples)
    for row, layer in enumerate(toy.layers):
        for term, (first, second) in PAIRS.items():
            matrix = fisher_matrix(stacks[first][layer.name], stacks[second][layer.name])
            assert table.traces[term][row] == pytest.approx(matrix.trace().item(), rel=1e-10, abs=1e-18)
            matrix = matrix if form is BLOCK else matrix.diag().diag()
            for column, bits in enumerate(WIDTHS):
                error = toy.error(layer.name, bits).flatten()
                expected = (error @ matrix @ error).item()
                assert table.terms[term][row, column] == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_linear_terms(toy):
    table = estimate(toy).table()
    stacks = image_gradients(toy.loss_alone, toy.parameters, toy.samples)
    for row, layer in enumerate(toy.layers):
        for column, bits in enumerate(WIDTHS):
            error = toy.error(layer.name, bits).flatten()
            for objective in toy.objectives:
                expected = (stacks[objective][layer.name] @ error).mean().item()
                found = table.linear[objective][row, column]
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_equals_curvlinops_where_it_applies(toy):
    data = [(image[None], label[None]) for image, label in toy.samples]
    table = estimate(toy).table()
    for row, name in enumerate(("conv", "twice", "head")):
        operator = EFLinearOperator(toy.model, nn.CrossEntropyLoss(), [toy.parameters[name]], data)
        for column, bits in enumerate(WIDTHS):
            error = toy.error(name, bits).detach().flatten()
            expected = (error @ (operator @ error)).item()
            assert table.terms["overall"][row, column] == pytest.approx(expected, rel=1e-9)


def test_diagonal_form_is_what_the_estimated_diagonal_gives(toy):
    table = estimate(toy, form=DIAGONAL).table()
    fisher = estimate_fisher(toy.loss, toy.parameters, toy.batches, QUIET)
    for term in PAIRS:
        for row, layer in enumerate(toy.layers):
            for column, bits in enumerate(WIDTHS):
                squared = toy.error(layer.name, bits).square()
                expected = (fisher.diagonals[term][layer.name] * squared).sum().item()
                assert table.terms[term][row, column] == pytest.approx(expected, rel=1e-10, abs=1e-20)


def test_both_forms_agree_where_one_weight_is_wrong(toy):
    """`d'I d` has no cross terms then."""

    def error(name, bits):
        one = torch.zeros_like(toy.parameters[name]).flatten()
        one[-1] = 2.0**-bits
        return one.view_as(toy.parameters[name])

    toy.error = error
    block, diagonal = (estimate(toy, form=form).table() for form in (BLOCK, DIAGONAL))
    for term in PAIRS:
        np.testing.assert_allclose(block.terms[term], diagonal.terms[term], rtol=1e-10, atol=1e-20)


def test_one_set_of_several(toy):
    def losses(batch):
        found = toy.loss(batch)
        return {"overall": found["overall"], "critical:a": found["critical"], "critical:b": found["overall"]}

    both = estimate_sensitivity(
        losses, toy.parameters, toy.batches, toy.error, toy.layers, WIDTHS, settings=QUIET
    )
    expected, found = estimate(toy).table(), both.of_set("a").table()
    for field in ("terms", "traces", "linear", "standard_errors"):
        assert set(getattr(found, field)) == set(getattr(expected, field))
        for term, values in getattr(expected, field).items():
            np.testing.assert_allclose(getattr(found, field)[term], values, rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("form", [BLOCK, DIAGONAL])
def test_float32_model_within_1e_4_of_the_float64_one(toy, toy32, form):
    expected, found = estimate(toy, form=form).table(), estimate(toy32, form=form).table()
    for term in ("overall", "critical"):
        np.testing.assert_allclose(found.terms[term], expected.terms[term], rtol=1e-4)


def test_float32_projection_of_a_large_layer():
    """Two million products that cancel: the error stays small beside the standard deviation `norm(d)`."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(2_000_000))
    direction = torch.randn(weight.shape, generator=generator)
    error = torch.randn(weight.shape, generator=generator)
    estimate = estimate_sensitivity(
        lambda _: {"overall": (weight @ direction)[None]},
        {"w": weight},
        [[0]],
        lambda *_: error,
        [LayerInfo("w", weight.numel(), 1)],
        (2,),
        settings=SINGLE,
    )
    expected = (direction.double() @ error.double()).item()
    assert abs(estimate.image_linear["overall"].item() - expected) <= 1e-4 * error.double().norm().item()


def test_order_of_the_layers_is_kept_and_a_part_is_enough(toy):
    whole, part = estimate(toy), estimate(toy, toy.layers[2:0:-1])
    assert [layer.name for layer in part.layers] == ["head", "twice"]
    for term in PAIRS:
        np.testing.assert_allclose(
            part.image_terms[term], whole.image_terms[term][:, 2:0:-1], rtol=1e-12, atol=1e-24
        )


def test_one_image_has_no_standard_error_and_one_objective_one_term(toy, tmp_path):
    table = estimate_sensitivity(
        lambda batch: {"overall": toy.loss(batch)["overall"]},
        toy.parameters,
        [toy.samples[:1]],
        toy.error,
        toy.layers,
        WIDTHS,
        settings=QUIET,
    ).table()
    assert table.standard_errors == {}
    assert list(table.terms) == ["overall"]
    table.save(tmp_path / "table.json")
    loaded = SensitivityTable.load(tmp_path / "table.json")
    assert (loaded.terms["overall"] == table.terms["overall"]).all()


def test_refuses_other_layers_and_shapes(toy):
    with pytest.raises(ValueError, match=r"\['other'\] have no weights"):
        estimate(toy, layers=[LayerInfo("other", 4, 1)])
    toy.error = lambda *_: torch.zeros(1)
    with pytest.raises(ValueError, match=r"'conv' at 2 bits has shape \(1,\), expected \(4, 2, 3, 3\)"):
        estimate(toy)
