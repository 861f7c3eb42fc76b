"""The averaged weights: their formula, what is averaged, and how they are saved and restored."""

import copy

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.engine import prepare
from fisher_detr.engine.ema import ModelEMA, averaged_tensors
from fisher_detr.quantization import ScaleTraining, learned_scales
from tests.engine.toy_training import make_batches, make_toy, make_trainer, train

DECAY = 0.8
NAMES = {"inner.weight", "inner.bias", "norm.weight", "norm.bias", "outer.weight", "outer.bias"}
STATISTICS = {"norm.running_mean", "norm.running_var"}


class History(HookBase):
    """State dicts: at the start and after each step."""

    def __init__(self):
        self.states = []

    def before_train(self):
        self.after_step()

    def after_step(self):
        self.states.append(copy.deepcopy(self.trainer.model.state_dict()))


def by_definition(states):
    """`(1 - d) sum_k d^(n - k) w_k`, and `d^n` of the start."""
    last = len(states) - 1
    shares = [DECAY**last] + [(1 - DECAY) * DECAY ** (last - k) for k in range(1, last + 1)]
    return {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        for name in NAMES | STATISTICS
    }


def test_average_is_that_of_its_definition():
    """Of weights and statistics of the batch norm."""
    ema, history = ModelEMA(DECAY), History()
    train(make_toy(norm=True), make_batches(6), hooks=(history, ema))
    averages = ema.state_dict()["averages"]
    assert averages.keys() == NAMES | STATISTICS
    for name, expected in by_definition(history.states).items():
        torch.testing.assert_close(averages[name], expected, rtol=1e-12, atol=1e-12)
        assert not torch.equal(averages[name], history.states[-1][name]), name


def test_model_has_the_averages_inside_and_its_own_weights_outside():
    model, ema = make_toy(norm=True), ModelEMA(DECAY)
    train(model, make_batches(3), hooks=(ema,))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), ema.applied():
        for name, value in ema.state_dict()["averages"].items():
            assert torch.equal(model.state_dict()[name], value)
        assert model.state_dict()["norm.num_batches_tracked"] == 3
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_frozen_is_not_averaged():
    model = make_toy(norm=True)
    model.inner.requires_grad_(False)
    model.norm = nn.BatchNorm1d(4, track_running_stats=False).double()
    assert averaged_tensors(model).keys() == NAMES - {"inner.weight", "inner.bias"}


def test_quantizers_are_those_of_the_model():
    """A scale belongs to its zero point, and one that is not set yet is 0: neither can be averaged."""
    model = make_toy(norm=True, dtype=torch.float32)
    prepare(model, bits=4, weights=ScaleTraining.LSQ, activations=ScaleTraining.LSQ)
    assert len(list(learned_scales(model))) == 4
    assert averaged_tensors(model).keys() == NAMES | STATISTICS
    assert len(model.state_dict()) > len(NAMES | STATISTICS) + 4


class Killed(RuntimeError):
    """Ends a training."""


class Kill(HookBase):
    def __init__(self, iteration):
        self.iteration, self.state = iteration, None

    def after_step(self):
        if self.trainer.iter == self.iteration:
            self.state = copy.deepcopy((self.trainer.model.state_dict(), self.trainer.state_dict()))
            raise Killed


def test_resumed_average_is_that_of_an_uninterrupted_run(tmp_path):
    batches = make_batches(6)
    whole = ModelEMA(DECAY, str(tmp_path / "whole"))
    train(make_toy(norm=True), batches, hooks=(whole,))
    kill = Kill(2)
    with pytest.raises(Killed):
        train(make_toy(norm=True), batches, hooks=(ModelEMA(DECAY, str(tmp_path / "killed")), kill))
    assert not (tmp_path / "killed").exists()
    model, resumed = make_toy(norm=True), ModelEMA(DECAY, str(tmp_path / "resumed"))
    trainer = make_trainer(model, batches[3:], hooks=(resumed,))
    weights, state = kill.state
    model.load_state_dict(weights)
    trainer.load_state_dict(state)
    trainer.train(3, 6)
    found, expected = (ema.state_dict()["averages"] for ema in (resumed, whole))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for folder in ("whole", "resumed"):
        stored = load_tensors(tmp_path / folder / "model_final_ema.pth")
        assert stored["iteration"] == 5
        assert all(torch.equal(stored["model"][name], value) for name, value in expected.items())


def test_averages_are_saved_before_the_training_begins_too():
    """As a trainer that has loaded its checkpoint saves it again."""
    state = {"averages": {"weight": torch.ones(2)}}
    ema = ModelEMA(DECAY)
    ema.load_state_dict(state)
    assert ema.state_dict() == state


def test_averages_of_another_model():
    ema = ModelEMA(DECAY, "folder")
    train(make_toy(norm=True), make_batches(1), hooks=(ModelEMA(DECAY),))
    ema.load_state_dict({"averages": {"inner.weight": torch.ones(4, 3)}})
    with pytest.raises(ValueError, match=r"checkpoint in folder are of another model \(inner.bias\)"):
        train(make_toy(), make_batches(1), hooks=(ema,))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=f"is {decay:g}, expected above 0 and below 1"):
        ModelEMA(decay)


def test_final_file_is_a_checkpoint_and_nothing_to_resume_from(tmp_path):
    model, ema = make_toy(norm=True), ModelEMA(DECAY, str(tmp_path))
    train(model, make_batches(4), hooks=(ema,))
    assert {path.name for path in tmp_path.iterdir()} == {"model_final_ema.pth"}
    loaded = make_toy(norm=True)
    SafeCheckpointer(loaded).load(str(tmp_path / "model_final_ema.pth"))
    with ema.applied():
        assert all(torch.equal(v, loaded.state_dict()[name]) for name, v in model.state_dict().items())
