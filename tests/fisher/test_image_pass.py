"""The pass itself: what it refuses, when it stops, and how it goes on."""

import io
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fisher_detr.fisher import GradientMethod, ImagePass, PassSettings

SAMPLE = {"image_id": 17}


def run(loss_fn, parameters, batches=((SAMPLE,),), **settings):
    settings = {"method": GradientMethod.SINGLE, "progress": False} | settings
    image_pass = ImagePass(loss_fn, parameters, settings=PassSettings(**settings))
    image_pass.run(batches)
    return image_pass


@pytest.fixture
def weight():
    return nn.Parameter(torch.tensor([1.0, 2.0]))


def test_one_forward_for_each_batch(toy):
    calls = []

    def loss_fn(batch):
        calls.append(len(batch))
        return toy.loss(batch)

    run(loss_fn, toy.parameters, toy.batches, method=GradientMethod.BATCHED)
    assert calls == [3, 1, 3, 2]  # the second compares the first image with autograd


def test_single_splits_the_batches(toy):
    calls = []

    def loss_fn(batch):
        calls.append(len(batch))
        return toy.loss(batch)

    found = run(loss_fn, toy.parameters, toy.batches)
    batched = run(toy.loss, toy.parameters, toy.batches, method=GradientMethod.BATCHED)
    assert calls == [1] * 8
    torch.testing.assert_close(found.traces.rows, batched.traces.rows, rtol=1e-12, atol=1e-20)


@pytest.mark.parametrize(
    "loss_fn, message",
    [
        (
            lambda w: {"a": w[:1], "b": w[:1] * float("nan")},
            r"'b' of image 0 \(image_id 17\) is nan: check the image, its labels and the checkpoint, or skip",
        ),
        (lambda w: {"a": w[:1] * float("inf")}, r"'a' of image 0 \(image_id 17\) is inf"),
        (lambda w: {"a": w[:1].detach()}, r"\['a'\] have no gradient on any image"),
    ],
)
def test_bad_losses(weight, loss_fn, message):
    with pytest.raises(ValueError, match=message):
        run(lambda _: loss_fn(weight), {"w": weight})


def test_a_broken_image_is_left_out_on_request(toy, caplog):
    """Its neighbours in the batch count as without it."""

    def loss_fn(batch):
        losses = toy.loss(batch)
        broken = torch.tensor([sample[0] is toy.samples[4][0] for sample in batch])
        return losses | {"critical": torch.where(broken, float("nan"), losses["critical"])}

    options = {"method": GradientMethod.BATCHED, "skip_broken": True}
    found = run(loss_fn, toy.parameters, toy.batches, **options)
    expected = run(toy.loss, toy.parameters, toy.batches, **options)
    kept = [0, 1, 2, 3, 5, 6, 7]
    assert found.positions == kept
    torch.testing.assert_close(found.traces.rows, expected.traces.rows[kept], rtol=1e-12, atol=1e-20)
    assert "loss 'critical' of image 4 is nan: the image is left out" in caplog.text


def test_a_pixel_that_is_not_a_number_spoils_no_other_image(toy):
    samples = [(image.clone(), label) for image, label in toy.samples[:3]]
    samples[1][0][0, 2, 2] = float("nan")
    options = {"method": GradientMethod.BATCHED, "skip_broken": True}
    found = run(toy.loss, toy.parameters, [samples], **options)
    expected = run(toy.loss, toy.parameters, [toy.samples[:3]], **options)
    torch.testing.assert_close(found.traces.rows, expected.traces.rows[[0, 2]], rtol=1e-12, atol=1e-20)


def test_all_images_broken(weight):
    with pytest.raises(ValueError, match="no image has finite losses"):
        run(lambda _: {"a": weight[:1] * float("nan")}, {"w": weight}, skip_broken=True)


def test_a_gradient_that_is_not_finite_names_image_objective_and_layer():
    # The root's slope is infinite at 0, and 0 times infinity is NaN, though the loss is finite.
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"loss 'a' on image 0 .* is not finite in layer 'second'"):
        run(lambda _: {"a": (first.sum() + second.sum().sqrt())[None]}, {"f": first, "second": second})


def test_every_image_has_the_same_objectives(weight):
    with pytest.raises(ValueError, match=r"image 1 has objectives \['b'\], expected \['a'\]"):
        run(lambda batch: {batch[0]: weight[:1]}, {"w": weight}, [["a"], ["b"]])


def test_no_images_and_no_parameters(weight):
    with pytest.raises(ValueError, match="no images"):
        run(lambda _: {"a": weight[:1]}, {"w": weight}, [])
    with pytest.raises(ValueError, match="no parameters"):
        run(lambda _: {"a": weight[:1]}, {})


def test_aliased_and_computed_weights_are_refused(weight):
    with pytest.raises(ValueError, match="'w' and 'again' are one tensor"):
        run(lambda _: {"a": weight[:1]}, {"w": weight, "again": weight})
    with pytest.raises(ValueError, match="'w' is computed from other tensors"):
        run(lambda _: {"a": weight[:1]}, {"w": weight * 2})


def test_a_loss_that_depends_on_the_other_images_is_noticed(toy):
    def loss_fn(batch):
        return {name: loss * len(batch) for name, loss in toy.loss(batch).items()}

    with pytest.raises(ValueError, match="from a batch are not those of its images alone: .* method single"):
        run(loss_fn, toy.parameters, toy.batches, method=GradientMethod.BATCHED)


def test_a_use_of_a_weight_that_cannot_be_seen_is_noticed(toy):
    beforehand = toy.model.head.weight.square().sum()

    def loss_fn(batch):
        return {name: loss + beforehand for name, loss in toy.loss(batch).items()}

    with pytest.raises(ValueError, match="gradients of layer 'head' from a batch are not those"):
        run(loss_fn, toy.parameters, toy.batches, method=GradientMethod.BATCHED)


def test_stops_where_the_trace_is_known_well_enough(weight):
    # Traces 8, 2, 8, 2, ...: mean 5, standard error 3 / sqrt(N) (n - 1 in the divisor): 10 % at N = 37.
    factors = [2.0, 1.0] * 50
    found = run(
        lambda batch: {"a": batch[0] * weight.sum()[None]},
        {"w": weight},
        [[factor] for factor in factors],
        relative_error=0.1,
    )
    totals = np.array([2 * factor**2 for factor in factors])
    errors = [totals[:n].std(ddof=1) / n**0.5 / totals[:n].mean() for n in range(2, 101)]
    assert len(found.positions) == 2 + next(i for i, error in enumerate(errors) if error <= 0.1) < 100


def test_a_broken_first_batch_does_not_end_the_estimate(toy):
    def loss_fn(batch):
        losses = toy.loss(batch)
        broken = torch.tensor([any(sample[0] is x[0] for x in toy.samples[:3]) for sample in batch])
        return {name: torch.where(broken, float("nan"), loss) for name, loss in losses.items()}

    found = run(
        loss_fn,
        toy.parameters,
        toy.batches,
        method=GradientMethod.BATCHED,
        skip_broken=True,
        relative_error=0.5,
    )
    assert found.positions == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("num_images", [2, 3, 5])
def test_layers_that_are_as_many_as_the_images(num_images):
    """Heads have the decoder layers before the images: in a batch of as many, which is which?"""
    torch.manual_seed(0)
    head, states = nn.Linear(4, 3).double(), torch.randn(num_images, 4).double()

    def loss_fn(batch):
        of_layers = torch.stack([states[batch], states[batch].sin(), 2 * states[batch]])  # [3, B, 4]
        return {"a": head(of_layers).square().sum((0, 2))}

    batches = [list(range(num_images))]
    found = run(loss_fn, {"head": head.weight}, batches, method=GradientMethod.BATCHED)
    expected = run(loss_fn, {"head": head.weight}, batches)
    torch.testing.assert_close(found.traces.rows, expected.traces.rows, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [-0.1, 1.0])
def test_relative_error_out_of_range(bad):
    with pytest.raises(ValueError, match="expected 0 .all images., or below 1"):
        PassSettings(relative_error=bad)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_is_shown_on_a_terminal_unless_it_is_off(weight, monkeypatch, progress, terminal):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    run(lambda _: {"a": weight[:1]}, {"w": weight}, progress=progress)
    assert ("Fisher information" in stderr.getvalue()) == (progress and terminal)
