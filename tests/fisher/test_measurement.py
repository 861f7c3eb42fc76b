"""Changes of the losses against a plain loop over copies of the network, image by image."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fisher_detr.fisher import LayerError, estimate_sensitivity, evaluate_losses, measure_loss_changes
from fisher_detr.structures import Combination, LayerInfo, Objective, SensitivityForm, SensitivityTable

WIDTHS = (2, 3, 8)


def measure(toy, loss=None, **arguments):
    layers, error = arguments.pop("layers", toy.layers), arguments.pop("error", toy.error)
    batches = arguments.pop("batches", toy.batches)
    return measure_loss_changes(
        loss or toy.loss, toy.parameters, batches, error, layers, WIDTHS, progress=False, **arguments
    )


def naive(toy):
    """Change by objective, image, layer and width: every one on a fresh copy of everything."""
    changes = {objective: np.zeros((8, len(toy.layers), len(WIDTHS))) for objective in toy.objectives}
    for row, layer in enumerate(toy.layers):
        for column, bits in enumerate(WIDTHS):
            other = copy.deepcopy(toy)
            weight = getattr(other.model, layer.name).weight
            weight.data = weight.data + toy.error(layer.name, bits).detach()
            for image, sample in enumerate(toy.samples):
                before, after = toy.loss_alone(sample), other.loss_alone(sample)
                for objective in toy.objectives:
                    difference = after[objective].item() - before[objective].item()
                    changes[objective][image, row, column] = difference
    return changes


def weights_of(toy):
    return {name: weight.detach().clone() for name, weight in toy.parameters.items()}


def assert_untouched(toy, before):
    for name, weight in toy.parameters.items():
        assert torch.equal(weight, before[name])
        assert weight.requires_grad and weight.grad is None


def test_equals_a_plain_loop_on_copies(toy):
    expected, before = naive(toy), weights_of(toy)
    found = measure(toy)
    assert found.layers == toy.layers and found.widths == WIDTHS and found.num_images == 8
    for objective in toy.objectives:
        np.testing.assert_allclose(found.changes[objective], expected[objective], rtol=0, atol=1e-14)
        start = [toy.loss_alone(sample)[objective].item() for sample in toy.samples]
        np.testing.assert_allclose(found.start[objective], start, rtol=1e-14)
        mean = expected[objective].mean(axis=0)
        np.testing.assert_allclose(found.means[objective], mean, rtol=0, atol=1e-14)
        errors = expected[objective].std(axis=0, ddof=1) / np.sqrt(8)
        np.testing.assert_allclose(found.standard_errors[objective], errors, rtol=0, atol=1e-14)
        assert not found.changes[objective][:, 3].any()  # the unused layer
    assert_untouched(toy, before)


def test_biases_change_too_and_are_restored(toy):
    def error(name, bits):
        weight = toy.error(name, bits)
        return weight if name == "head" else LayerError(weight, weight.flatten(1).sum(dim=1) + 0.1)

    biases = {name: getattr(toy.model, name).bias for name in toy.parameters}
    before = {name: bias.detach().clone() for name, bias in biases.items()}
    found, without = measure(toy, error=error, biases=biases), measure(toy)
    for name, bias in biases.items():
        assert torch.equal(bias, before[name])
    other = copy.deepcopy(toy)
    part = error("conv", 3)
    other.model.conv.weight.data += part.weight
    other.model.conv.bias.data += part.bias
    for objective in toy.objectives:
        expected = [
            other.loss_alone(s)[objective].item() - toy.loss_alone(s)[objective].item() for s in toy.samples
        ]
        np.testing.assert_allclose(found.changes[objective][:, 0, 1], expected, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(found.changes[objective][:, 2], without.changes[objective][:, 2])
    with pytest.raises(ValueError, match="layer 'conv' adds to its bias: name it in biases"):
        measure(toy, error=error)


def test_does_not_depend_on_batches_or_on_the_order_of_layers(toy):
    whole = measure(toy)
    other = measure(toy, batches=iter([[sample] for sample in toy.samples]), layers=toy.layers[2:0:-1])
    for objective in toy.objectives:
        np.testing.assert_allclose(
            other.changes[objective], whole.changes[objective][:, 2:0:-1], rtol=0, atol=1e-14
        )


def test_small_errors_cost_what_the_gradient_says(toy):
    """To first order: `L(w + d) - L(w) = g'd + O(d^2)`, image by image."""
    size = 1e-6

    def error(name, bits):
        return size * toy.error(name, bits)

    linear = estimate_sensitivity(toy.loss, toy.parameters, toy.batches, error, toy.layers, WIDTHS)
    found = measure(toy, error=error)
    for objective in toy.objectives:
        expected = linear.image_linear[objective]
        np.testing.assert_allclose(found.changes[objective], expected, rtol=0, atol=100 * size**2)


def test_no_error_changes_nothing(toy):
    found = measure(toy, error=lambda name, bits: torch.zeros_like(toy.parameters[name]))
    assert not any(changes.any() for changes in found.changes.values())


@pytest.mark.parametrize("call", [2, 9, 20])
def test_weights_are_restored_when_something_raises(toy, call):
    calls, before = [], weights_of(toy)

    def loss(batch):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return toy.loss(batch)

    with pytest.raises(KeyboardInterrupt):
        measure(toy, loss)
    assert_untouched(toy, before)


def test_weights_are_restored_bitwise_in_low_precision():
    """Adding and subtracting would not: 1e-8 is lost in 1e3."""
    weight = nn.Parameter(torch.tensor([1e-8, -0.0, float("nan"), 3.0]))
    before = weight.detach().clone().view(torch.int32)
    seen = []

    def loss(batch):
        seen.append(weight.detach().clone())
        return {"overall": torch.zeros(len(batch))}

    layer = LayerInfo("w", 4, 1)
    measure_loss_changes(loss, {"w": weight}, [[0]], lambda *_: torch.full((4,), 1e3), [layer], [2], False)
    assert seen[1][0] == 1e3 and seen[1][3] == 1003
    assert torch.equal(weight.detach().view(torch.int32), before)


def test_goes_on_where_it_stopped(toy):
    written, calls, whole = {}, [], measure(toy)

    def loss(batch):
        calls.append(None)
        return toy.loss(batch)

    def stop(name, changes):
        written[name] = changes
        if name == "twice":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(toy, loss, on_layer=stop)
    assert list(written) == ["conv", "twice"] and written["conv"].shape == (2, 8, 3)
    rest = {}
    calls.clear()
    found = measure(toy, loss, known={**written, "another": np.zeros(3)}, on_layer=rest.__setitem__)
    assert list(rest) == ["head", "unused"]
    assert len(calls) == len(toy.batches) * (1 + 2 * len(WIDTHS))
    for objective in toy.objectives:
        assert (found.changes[objective] == whole.changes[objective]).all()


def test_table_clips_what_fell_and_normalises_by_the_objective_itself(toy):
    found = measure(toy)
    table = found.table({"seed": 3})
    assert table.form == SensitivityForm.MEASURED
    assert table.meta["seed"] == 3 and table.meta["num_images"] == 8
    for objective in toy.objectives:
        mean = naive(toy)[objective].mean(axis=0)
        np.testing.assert_allclose(table.terms[objective], np.maximum(mean, 0), rtol=0, atol=1e-14)
        assert table.meta["num_negative"][objective] == (mean < 0).sum()
        np.testing.assert_allclose(table.traces[objective], table.terms[objective].mean(axis=1))
        assert (table.standard_errors[objective] == found.standard_errors[objective]).all()
    # Some fell, or the test shows nothing.
    assert sum(table.meta["num_negative"].values()) > 0


def test_objectives_of_another_scale_get_the_same_plan(toy):
    def scaled(batch):
        losses = toy.loss(batch)
        return {"overall": losses["overall"], "critical": 1000 * losses["critical"]}

    objective = Objective(1.0, 2.0, Combination.SUM_OF_NORMALIZED)
    costs = []
    for loss in (toy.loss, scaled):
        table = measure(toy, loss).table()
        costs.append(sum(f * table.terms[term] for term, f in objective.factors(table.traces).items()))
    np.testing.assert_allclose(costs[0], costs[1], rtol=1e-9)
    assert costs[0].sum(axis=0).mean() == pytest.approx(3.0)  # a_A + a_F


def test_one_image_has_no_standard_error(toy, tmp_path):
    found = measure(toy, batches=[toy.samples[:1]])
    table = found.table()
    assert table.standard_errors == {} and np.isinf(found.standard_errors["overall"]).all()
    table.save(tmp_path / "table.json")
    assert SensitivityTable.load(tmp_path / "table.json").form == SensitivityForm.MEASURED


def test_a_critical_set_among_several(toy):
    def several(batch):
        losses = toy.loss(batch)
        return {
            "overall": losses["overall"],
            "critical:a": losses["critical"],
            "critical:b": losses["overall"],
        }

    found, expected = measure(toy, several).of_set("a"), measure(toy)
    assert list(found.changes) == list(found.start) == ["critical", "overall"]
    for objective in toy.objectives:
        assert (found.changes[objective] == expected.changes[objective]).all()
    assert set(found.table().terms) == {"overall", "critical"}


def test_saturated_losses_are_measured(toy):
    found = measure(toy, error=lambda name, bits: 1e6 * torch.ones_like(toy.parameters[name]))
    assert all(np.isfinite(changes).all() for changes in found.changes.values())
    assert found.changes["overall"].max() > 1e6


def test_refuses_a_loss_that_is_not_finite(toy):
    before = weights_of(toy)

    def error(name, bits):
        return torch.full_like(toy.parameters[name], float("inf") if (name, bits) == ("head", 3) else 0.0)

    message = r"loss 'overall' of image 0 with layer 'head' at 3 bits is nan: leave that width out"
    with pytest.raises(ValueError, match=message):
        measure(toy, error=error)
    assert_untouched(toy, before)

    def broken(batch):
        return {
            name: loss / torch.tensor([1.0, 0.0, 1.0])[: len(loss)] for name, loss in toy.loss(batch).items()
        }

    with pytest.raises(ValueError, match="loss 'overall' of image 1 is inf: check the image"):
        measure(toy, broken)


def test_refuses_what_cannot_be_measured(toy):
    for batches in ([], [[]]):
        with pytest.raises(ValueError, match="no images"):
            measure(toy, lambda batch: {"overall": torch.zeros(len(batch))}, batches=batches)
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        measure(toy, lambda batch: {"overall": toy.loss(batch)["overall"].mean()})
    with pytest.raises(ValueError, match=r"image 6 has objectives \['b'\], expected \['a'\]"):
        measure(toy, lambda batch: {"a" if len(batch) == 3 else "b": torch.zeros(len(batch))})
    with pytest.raises(ValueError, match=r"\['other'\] have no weights"):
        measure(toy, layers=[LayerInfo("other", 4, 1)])
    with pytest.raises(ValueError, match=r"'conv' at 2 bits has shape \(1,\), expected \(4, 2, 3, 3\)"):
        measure(toy, error=lambda *_: torch.zeros(1))
    with pytest.raises(ValueError, match=r"'head' have shape \(2, 8\), expected \(2, 8, 3\)"):
        measure(toy, known={"head": np.zeros((2, 8))})
    toy.parameters["conv"] = 1 * toy.parameters["conv"]
    with pytest.raises(ValueError, match="'conv' is computed from other tensors"):
        measure(toy)


def test_losses_of_all_images_in_order(toy):
    losses = evaluate_losses(toy.loss, toy.batches)
    for objective in toy.objectives:
        expected = [toy.loss_alone(sample)[objective].item() for sample in toy.samples]
        np.testing.assert_allclose(losses[objective], expected, rtol=1e-14)
