"""A pass that is cut off goes on, and gives what one that was not gives."""

import numpy as np
import pytest
import torch

from fisher_detr.fisher import GradientMethod, PassFile, PassSettings, estimate_fisher, estimate_sensitivity
from fisher_detr.structures import SensitivityForm

QUIET = PassSettings(progress=False)


class Killed(Exception):
    pass


def losses_until(toy, batches):
    """Computes that many batches more, then ends like a killed process; one more is the comparison's."""
    left = [batches + 1]

    def losses(batch):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return toy.loss(batch)

    return losses


def fisher(toy, keeper, loss_fn=None):
    return estimate_fisher(loss_fn or toy.loss, toy.parameters, toy.batches, QUIET, keeper)


def test_diagonal(toy, tmp_path, caplog):
    caplog.set_level("INFO")
    keeper = PassFile(tmp_path / "pass.safetensors", "a", every=1)
    with pytest.raises(Killed):
        fisher(toy, keeper, losses_until(toy, 2))
    calls = []
    found = fisher(toy, keeper, lambda batch: calls.append(len(batch)) or toy.loss(batch))
    assert calls == [2, 1]  # the last batch, and the comparison with autograd
    assert "6 images are done" in caplog.text
    expected = fisher(toy, None)
    assert found.positions == expected.positions == tuple(range(8))
    for term, of_layers in expected.diagonals.items():
        assert (found.image_traces[term] == expected.image_traces[term]).all()
        assert all(torch.equal(found.diagonals[term][name], value) for name, value in of_layers.items())
    keeper.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", SensitivityForm)
def test_sensitivity(toy, tmp_path, form):
    keeper = PassFile(tmp_path / "pass.safetensors", "a", every=1)

    def estimate(loss_fn, keeper):
        return estimate_sensitivity(
            loss_fn, toy.parameters, toy.batches, toy.error, toy.layers, (2, 8), form, QUIET, keeper
        ).table()

    with pytest.raises(Killed):
        estimate(losses_until(toy, 1), keeper)
    found, expected = estimate(toy.loss, keeper), estimate(toy.loss, None)
    for term, values in expected.terms.items():
        np.testing.assert_array_equal(found.terms[term], values)


def test_files_of_other_settings_and_broken_ones_are_not_taken(toy, tmp_path, caplog):
    path = tmp_path / "pass.safetensors"
    with pytest.raises(Killed):
        fisher(toy, PassFile(path, "a", every=1), losses_until(toy, 2))
    calls = []
    fisher(toy, PassFile(path, "b", every=0), lambda batch: calls.append(0) or toy.loss(batch))
    assert len(calls) == 4
    assert "is of other settings: the pass begins anew" in caplog.text
    path.write_bytes(path.read_bytes()[:-100])
    fisher(toy, PassFile(path, "a", every=0))
    assert "cannot be read" in caplog.text


def test_is_written_every_so_many_images(toy, tmp_path):
    path = tmp_path / "pass.safetensors"
    with pytest.raises(Killed):
        fisher(toy, PassFile(path, "a", every=6), losses_until(toy, 1))
    assert not path.exists()
    fisher(toy, PassFile(path, "a", every=6))
    assert path.exists()


def test_batches_and_single_images_do_not_go_on_from_each_other(toy, tmp_path, caplog):
    """A round of one is a batch, of the other an image."""
    path = tmp_path / "pass.safetensors"
    with pytest.raises(Killed):
        fisher(toy, PassFile(path, "a", every=1), losses_until(toy, 2))
    single = PassSettings(GradientMethod.SINGLE, progress=False)
    keeper = PassFile(path, "a", every=0)
    found = estimate_fisher(toy.loss, toy.parameters, toy.batches, single, keeper)
    assert found.positions == tuple(range(8))
    assert "is of other settings" in caplog.text


def test_what_is_done_stays_until_it_is_removed(toy, tmp_path):
    """A pass that builds on it may be cut off."""
    keeper = PassFile(tmp_path / "pass.safetensors", "a", every=5)
    expected = fisher(toy, keeper)

    def never(batch):
        raise AssertionError("computed again")

    found = fisher(toy, keeper, never)
    assert (found.image_traces["cross"] == expected.image_traces["cross"]).all()
    keeper.remove()
    assert not keeper.path.exists()
