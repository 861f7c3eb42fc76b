"""Moments of a pass over batches, against single images and what autograd says of each product."""

import pytest
import torch
from torch.nn import functional as F

from fisher_detr.fisher import GradientMethod, PassFile, PassSettings, estimate_input_moments, input_moment
from fisher_detr.structures import Combination, Objective

QUIET = PassSettings(progress=False)
TRACES = {term: torch.ones(1).double().numpy() for term in ("overall", "cross", "critical")}
SUM = Objective(1.5, 0.5, Combination.SUM_OF_NORMALIZED).factors(TRACES)
SQUARE = Objective(1.5, 0.5, Combination.SQUARE_OF_SUM).factors(TRACES)
ALONE = Objective(1.0, 0.0).factors(TRACES)


def naive(toy, gradient_of):
    """Mean over the images of H of the layers "conv" and "head", from the gradients by their outputs."""
    totals = {"conv": 0, "head": 0}
    for sample in toy.samples:
        seen = {}

        def keep(module, inputs, output, seen=seen):
            seen[module] = (inputs[0], output)

        handles = [getattr(toy.model, name).register_forward_hook(keep) for name in totals]
        losses = toy.loss_alone(sample)
        for handle in handles:
            handle.remove()
        for name in totals:
            x, output = seen[getattr(toy.model, name)]
            gradients = {
                objective: torch.autograd.grad(loss, output, retain_graph=True)[0]
                for objective, loss in losses.items()
            }
            geometry = (1, 1, 1, 1) if name == "conv" else None
            shape = toy.parameters[name].shape
            totals[name] += sum(
                input_moment(x.detach(), gradient, shape, geometry) for gradient in gradient_of(gradients)
            )
    return {name: total / len(toy.samples) for name, total in totals.items()}


@pytest.mark.parametrize(
    ("factors", "gradient_of"),
    [
        (ALONE, lambda g: [g["overall"]]),
        (SUM, lambda g: [1.5**0.5 * g["overall"], 0.5**0.5 * g["critical"]]),
        (SQUARE, lambda g: [1.5 * g["overall"] + 0.5 * g["critical"]]),
    ],
    ids=["one objective", "sum", "square of sum"],
)
def test_equals_one_image_at_a_time(toy, factors, gradient_of):
    found = estimate_input_moments(toy.loss, toy.parameters, toy.batches, factors, settings=QUIET)
    for name, expected in naive(toy, gradient_of).items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-18)
    assert {name: tuple(moment.shape) for name, moment in found.items()} == {
        "conv": (1, 18, 18),
        "twice": (1, 4, 4),
        "head": (1, 4, 4),
        "unused": (1, 4, 4),
    }
    assert not found["unused"].any()


def test_a_layer_that_runs_twice_has_the_sum_of_both(toy):
    """By hand: `h2 = W tanh(W h)`; the inputs of the two products are h and tanh(W h)."""
    found = estimate_input_moments(toy.loss, toy.parameters, toy.batches, ALONE, settings=QUIET)["twice"]
    total = 0
    for image, label in toy.samples:
        first_in = F.relu(toy.model.conv(image)).mean(dim=(-2, -1)).detach()
        first_out = toy.model.twice(first_in).detach().requires_grad_()
        second_in = torch.tanh(first_out)
        second_out = toy.model.twice(second_in)
        loss = F.cross_entropy(toy.model.head(second_out), label)
        of_first, of_second = torch.autograd.grad(loss, (first_out, second_out))
        for x, gradient in ((first_in, of_first), (second_in.detach(), of_second)):
            total += gradient.square().sum() * torch.outer(x, x)
    torch.testing.assert_close(found[0], total / len(toy.samples), rtol=1e-10, atol=1e-18)


def test_broken_images_do_not_count(toy):
    def loss_fn(batch):
        losses = toy.loss(batch)
        broken = torch.tensor([sample[0] is toy.samples[4][0] for sample in batch])
        return losses | {"critical": torch.where(broken, float("nan"), losses["critical"])}

    rest = [toy.samples[:3], [toy.samples[3], toy.samples[5]], toy.samples[6:]]
    settings = PassSettings(skip_broken=True, progress=False)
    found = estimate_input_moments(loss_fn, toy.parameters, toy.batches, SUM, settings=settings)
    expected = estimate_input_moments(toy.loss, toy.parameters, rest, SUM, settings=QUIET)
    for name, moment in expected.items():
        torch.testing.assert_close(found[name], moment, rtol=1e-10, atol=1e-18)


def test_goes_on_where_it_was_cut_off(toy, tmp_path):
    keeper, calls = PassFile(tmp_path / "pass", "a", every=1), []

    def killed(batch):
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return toy.loss(batch)

    with pytest.raises(KeyboardInterrupt):
        estimate_input_moments(killed, toy.parameters, toy.batches, SUM, settings=QUIET, keeper=keeper)
    found = estimate_input_moments(toy.loss, toy.parameters, toy.batches, SUM, settings=QUIET, keeper=keeper)
    expected = estimate_input_moments(toy.loss, toy.parameters, toy.batches, SUM, settings=QUIET)
    assert all(torch.equal(found[name], moment) for name, moment in expected.items())


def test_single_knows_no_inputs(toy):
    with pytest.raises(ValueError, match="not known to the method single: take batched"):
        estimate_input_moments(
            toy.loss, toy.parameters, toy.batches, SUM, settings=PassSettings(GradientMethod.SINGLE)
        )


def test_biases_of_some_layers(toy):
    found = estimate_input_moments(toy.loss, toy.parameters, toy.batches, SUM, ["head", "conv"], QUIET)
    without = estimate_input_moments(toy.loss, toy.parameters, toy.batches, SUM, settings=QUIET)
    shapes = {name: tuple(moment.shape) for name, moment in found.items()}
    assert shapes == {"conv": (1, 19, 19), "twice": (1, 4, 4), "head": (1, 5, 5), "unused": (1, 4, 4)}
    for name, moment in without.items():
        torch.testing.assert_close(found[name][:, : moment.shape[1], : moment.shape[1]], moment)
    total = 0  # `|g|^2` of the head's output, which is what its bias multiplies
    for image, label in toy.samples:
        output = toy.model(image).detach().requires_grad_()
        losses = [
            F.cross_entropy(output, label),
            F.binary_cross_entropy_with_logits(output[0], (label == 0).double()),
        ]
        for factor, loss in zip((1.5, 0.5), losses, strict=True):
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            total += factor * gradient.square().sum()
    torch.testing.assert_close(found["head"][0, -1, -1], total / len(toy.samples))
