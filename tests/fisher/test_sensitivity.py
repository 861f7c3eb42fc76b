import numpy as np
import pytest
import torch
from curvlinops import EFLinearOperator
from torch import nn

from fisher_detr.fisher import diagonal_sensitivity, estimate_block_sensitivity, estimate_fisher
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable
from tests.oracles.naive_fisher import fisher_matrix, image_gradients

PAIRS = {"overall": ("overall",) * 2, "cross": ("overall", "critical"), "critical": ("critical",) * 2}
WIDTHS = (2, 3, 8)


def estimate(toy, layers=None, samples=None):
    return estimate_block_sensitivity(
        toy.loss,
        toy.parameters,
        samples or toy.samples,
        toy.error,
        layers or toy.layers,
        WIDTHS,
        progress=False,
    )


def test_equals_the_explicit_quadratic_form(toy):
    table = estimate(toy).table({"seed": 3})
    stacks = image_gradients(toy.loss, toy.parameters, toy.samples)
    assert table.form == SensitivityForm.BLOCK
    assert table.meta == {"seed": 3, "num_images": 8}
    for row, layer in enumerate(toy.layers):
        for term, (first, second) in PAIRS.items():
            matrix = fisher_matrix(stacks[first][layer.name], stacks[second][layer.name])
            assert table.traces[term][row] == pytest.approx(matrix.trace().item(), rel=1e-10, abs=1e-18)
            for column, bits in enumerate(WIDTHS):
                error = toy.error(layer.name, bits).flatten()
                expected = (error @ matrix @ error).item()
                assert table.terms[term][row, column] == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_linear_terms_and_standard_errors(toy):
    table = estimate(toy).table()
    stacks = image_gradients(toy.loss, toy.parameters, toy.samples)
    for row, layer in enumerate(toy.layers):
        for column, bits in enumerate(WIDTHS):
            error = toy.error(layer.name, bits).flatten()
            projections = {o: (stacks[o][layer.name] @ error).detach().numpy() for o in toy.objectives}
            for objective, values in projections.items():
                expected = pytest.approx(values.mean(), rel=1e-9, abs=1e-18)
                assert table.linear[objective][row, column] == expected
            for term, (first, second) in PAIRS.items():
                products = projections[first] * projections[second]
                expected = pytest.approx(products.std(ddof=1) / np.sqrt(8), rel=1e-9, abs=1e-18)
                assert table.standard_errors[term][row, column] == expected


def test_equals_curvlinops_where_it_applies(toy):
    data = [(image[None], label[None]) for image, label in toy.samples]
    table = estimate(toy).table()
    for row, name in enumerate(("conv", "twice", "head")):
        operator = EFLinearOperator(toy.model, nn.CrossEntropyLoss(), [toy.parameters[name]], data)
        for column, bits in enumerate(WIDTHS):
            error = toy.error(name, bits).detach().flatten()
            expected = (error @ (operator @ error)).item()
            assert table.terms["overall"][row, column] == pytest.approx(expected, rel=1e-9)


def test_equals_the_diagonal_form_where_one_weight_is_wrong(toy):
    """`d'I d` has no cross terms then; three bits of error elsewhere would."""

    def error(name, bits):
        one = torch.zeros_like(toy.parameters[name]).flatten()
        one[-1] = 2.0**-bits
        return one.view_as(toy.parameters[name])

    block = estimate_block_sensitivity(
        toy.loss, toy.parameters, toy.samples, error, toy.layers, WIDTHS, progress=False
    ).table()
    fisher = estimate_fisher(toy.loss, toy.parameters, toy.samples, progress=False)
    diagonal = diagonal_sensitivity(fisher, error, toy.layers, WIDTHS)
    for term in PAIRS:
        np.testing.assert_allclose(block.terms[term], diagonal.terms[term], rtol=1e-10, atol=1e-20)


def test_float32_model_within_1e_4_of_the_float64_one(toy, toy32):
    expected, found = estimate(toy).table(), estimate(toy32).table()
    for term in ("overall", "critical"):
        np.testing.assert_allclose(found.terms[term], expected.terms[term], rtol=1e-4)


def test_float32_projection_of_a_large_layer():
    """Two million products that cancel: the error stays small beside the standard deviation `norm(d)`."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(2_000_000))
    direction = torch.randn(weight.shape, generator=generator)
    error = torch.randn(weight.shape, generator=generator)
    estimate = estimate_block_sensitivity(
        lambda _: {"overall": weight @ direction},
        {"w": weight},
        [0],
        lambda *_: error,
        [LayerInfo("w", weight.numel(), 1)],
        (2,),
        progress=False,
    )
    expected = (direction.double() @ error.double()).item()
    assert abs(estimate.projections["overall"].item() - expected) <= 1e-4 * error.double().norm().item()


def test_order_of_the_layers_is_kept_and_a_part_is_enough(toy):
    whole, part = estimate(toy), estimate(toy, toy.layers[2:0:-1])
    assert [layer.name for layer in part.layers] == ["head", "twice"]
    for objective in toy.objectives:
        np.testing.assert_allclose(
            part.projections[objective], whole.projections[objective][:, 2:0:-1], rtol=1e-12
        )


def test_one_image_has_no_standard_error_and_one_objective_one_term(toy, tmp_path):
    table = estimate_block_sensitivity(
        lambda sample: {"overall": toy.loss(sample)["overall"]},
        toy.parameters,
        toy.samples[:1],
        toy.error,
        toy.layers,
        WIDTHS,
        progress=False,
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
