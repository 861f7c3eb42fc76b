import io
import sys

import pytest
import torch
from torch import nn

from fisher_detr.fisher import image_gradients

SAMPLE = {"image_id": 17}


def gradients_of(loss_fn, parameters, samples=(SAMPLE,)):
    return list(image_gradients(loss_fn, parameters, samples, progress=False))


@pytest.fixture
def weight():
    return nn.Parameter(torch.tensor([1.0, 2.0]))


def test_names_the_image_and_gives_every_objective(weight):
    ((image, gradients),) = gradients_of(lambda _: {"a": weight.sum(), "b": 3 * weight[0]}, {"w": weight})
    assert image == "image 0 (image_id 17)"
    assert gradients["a"]["w"].tolist() == [1.0, 1.0]
    assert gradients["b"]["w"].tolist() == [3.0, 0.0]
    assert weight.grad is None


def test_one_forward_for_each_image(weight):
    calls = []

    def loss_fn(sample):
        calls.append(sample)
        return {"a": weight.sum(), "b": weight.square().sum()}

    gradients_of(loss_fn, {"w": weight}, [1, 2, 3])
    assert calls == [1, 2, 3]


def test_frozen_weights_take_part_and_stay_frozen(weight):
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    with torch.no_grad():
        ((_, gradients),) = gradients_of(lambda _: {"a": frozen @ weight}, {"f": frozen, "w": weight})
    assert gradients["a"]["f"].tolist() == [1.0, 2.0]
    assert not frozen.requires_grad
    assert weight.requires_grad


def test_frozen_weights_stay_frozen_after_an_error():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(ValueError, match="is nan"):
        gradients_of(lambda _: {"a": frozen.sum() * float("nan")}, {"f": frozen})
    assert not frozen.requires_grad


def test_a_weight_without_gradient_counts_as_zero(weight):
    other = nn.Parameter(torch.ones(3))
    ((_, gradients),) = gradients_of(lambda _: {"a": weight.sum()}, {"w": weight, "other": other})
    assert gradients["a"]["other"].tolist() == [0.0, 0.0, 0.0]


def test_a_constant_loss_on_one_image_counts_as_zero(weight):
    def loss_fn(sample):
        return {"a": weight.sum() if sample else torch.tensor(0.0)}

    (_, first), (_, second) = gradients_of(loss_fn, {"w": weight}, [0, 1])
    assert first["a"]["w"].tolist() == [0.0, 0.0]
    assert second["a"]["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "loss_fn, message",
    [
        (lambda w: {"a": w.sum(), "b": w.sum() * float("nan")}, r"'b' of image 0 \(image_id 17\) is nan"),
        (lambda w: {"a": w.sum() * float("inf")}, r"'a' of image 0 \(image_id 17\) is inf"),
        (lambda w: {"a": w}, r"has shape \(2,\): expected a scalar"),
        (lambda w: {"a": w.detach().sum()}, r"\['a'\] have no gradient on any image"),
        (lambda w: {}, "objectives"),
    ],
)
def test_bad_losses(weight, loss_fn, message):
    with pytest.raises(ValueError, match=message):
        gradients_of(lambda _: loss_fn(weight), {"w": weight})


def test_every_image_has_the_same_objectives(weight):
    with pytest.raises(ValueError, match=r"image 1 has objectives \['b'\], expected \['a'\]"):
        gradients_of(lambda name: {name: weight.sum()}, {"w": weight}, ["a", "b"])


def test_no_samples_and_no_parameters(weight):
    with pytest.raises(ValueError, match="no samples"):
        gradients_of(lambda _: {"a": weight.sum()}, {"w": weight}, [])
    with pytest.raises(ValueError, match="no parameters"):
        gradients_of(lambda _: {"a": weight.sum()}, {})


def test_aliased_and_computed_weights_are_refused(weight):
    with pytest.raises(ValueError, match="'w' and 'again' are one tensor"):
        gradients_of(lambda _: {"a": weight.sum()}, {"w": weight, "again": weight})
    with pytest.raises(ValueError, match="'w' is computed from other tensors"):
        gradients_of(lambda _: {"a": weight.sum()}, {"w": weight * 2})


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_is_shown_on_a_terminal_unless_it_is_off(weight, monkeypatch, progress, terminal):
    stderr = io.StringIO()
    stderr.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stderr)
    list(image_gradients(lambda _: {"a": weight.sum()}, {"w": weight}, [1], progress=progress))
    assert ("Fisher information" in stderr.getvalue()) == (progress and terminal)
