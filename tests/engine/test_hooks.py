"""The hook on trainers that know nothing of it."""

import copy
import random

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine import FisherTracePenalty, PenaltySettings, QATHook, QATSchedule, prepare
from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer
from fisher_detr.engine.penalty_term import LOSS_NAME
from fisher_detr.fisher import PenaltyMethod
from fisher_detr.quantization import RangeMethod, ScaleTraining, quantized_layers
from tests.engine import foreign
from tests.engine.small_net import Given, make_batch, make_net, own_loss

MINMAX, FIXED = ScaleTraining.MINMAX, ScaleTraining.FIXED
FIXED_SCALES = QATSchedule(weights=FIXED, activations=FIXED)


class Watch(HookBase):
    """Calls functions before and after each step."""

    def __init__(self, before=None, after=None):
        self._before, self._after = before, after

    def before_step(self):
        if self._before:
            self._before(self.trainer)

    def after_step(self):
        if self._after:
            self._after(self.trainer)


def make_trainer(model, *hooks, data=None, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 1e-2)
    trainer = SimpleTrainer(model, data or [make_batch(i) for i in range(20)], optimizer)
    trainer.register_hooks(list(hooks))
    return trainer


def prepared_retinanet():
    model = foreign.make_retinanet()
    prepare(model, bits=4, skip=foreign.SKIP, weights=MINMAX, activations=FIXED)
    return model


def retinanet_trainer(penalty, *hooks):
    model = prepared_retinanet()
    schedule = QATSchedule(weights=MINMAX, activations=FIXED, observe_iters=2, range_method=RangeMethod.MAX)
    data = [foreign.make_batch(i) for i in range(6)]
    return make_trainer(model, QATHook(schedule, penalty, seed=0), *hooks, data=data)


def trace_by_hand(model, batch):
    """Mean over images of the squared norm of the gradient with respect to latent weights.

    No weight is clipped under scales of the largest one, so that a straight-through gradient is the quantized
    weight's.
    """
    weights = [layer.weight for layer in quantized_layers(model).values()]
    total = 0.0
    for sample in batch:
        loss = foreign.loss_of_one_category(model, [sample])
        gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        total = total + sum(gradient.square().sum() for gradient in gradients)
    return total / len(batch)


def gradients_of(value, model):
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)


def test_retinanet_with_a_loss_of_its_user():
    """Value and gradient are lambda times the trace's, the gradient for both iterations of an interval."""
    kept = {}

    def keep(trainer):
        kept[trainer.iter] = (
            copy.deepcopy(trainer.model.state_dict()),
            getattr(trainer.model, "loss_normalizer", 100),
        )

    settings = PenaltySettings(3.0, PenaltyMethod.EXACT, interval=2, normalize=False, clip_norm=0.0)
    trainer = retinanet_trainer(FisherTracePenalty(foreign.loss_of_one_category, settings), Watch(keep))
    trainer.train(0, 3)
    history = trainer.storage.history(LOSS_NAME).values()
    assert [iteration for _, iteration in history] == [2]

    model, batch = prepared_retinanet(), foreign.make_batch(2)
    state, model.loss_normalizer = kept[2]
    model.load_state_dict(state)
    trace = trace_by_hand(model, batch)
    assert history[0][0] == pytest.approx(3.0 * trace.item(), rel=1e-4)
    assert trainer.storage.history("fisher_trace").latest() == pytest.approx(trace.item(), rel=1e-4)
    with EventStorage():
        task = sum(model(batch).values())
    expected = gradients_of(task + 2 * 3.0 * trace, model)
    alone = gradients_of(2 * 3.0 * trace_by_hand(model, batch), model)
    for parameter, gradient in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    share = sum(g.norm() ** 2 for g in alone) / sum(g.norm() ** 2 for g in expected)
    assert share > 0.01  # the tolerance above would not hide it


@pytest.mark.parametrize("method", list(PenaltyMethod))
def test_retinanet_learns_under_the_normalised_penalty(method):
    """The first value is lambda: the trace over itself."""
    settings = PenaltySettings(0.5, method, interval=2)
    trainer = retinanet_trainer(FisherTracePenalty(foreign.loss_of_one_category, settings))
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train(0, 5)
    history = trainer.storage.history(LOSS_NAME).values()
    assert [iteration for _, iteration in history] == [2, 4]
    assert history[0][0] == pytest.approx(0.5)
    assert trainer.storage.history("total_loss").latest() == pytest.approx(
        sum(trainer.storage.history(name).latest() for name in ("loss_cls", "loss_box_reg", LOSS_NAME))
    )
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_retinanets_own_loss_moves_an_average():
    """Detectron2 divides by a moving average of the number of anchors: two evaluations differ."""

    def own(model, batch):
        return model(batch)["loss_cls"]

    def train(method):
        trainer = retinanet_trainer(FisherTracePenalty(own, PenaltySettings(1.0, method)))
        trainer.train(0, 3)
        return trainer.storage.history(LOSS_NAME).latest()

    with pytest.raises(ValueError, match="keep moving averages out of it, or take the method exact"):
        train(PenaltyMethod.FINITE_DIFFERENCE)
    assert train(PenaltyMethod.EXACT) == pytest.approx(1.0)


def test_forgotten_prepare():
    trainer = make_trainer(nn.Linear(3, 2), QATHook(QATSchedule()))
    with pytest.raises(
        RuntimeError, match=r"no quantized layer: call fisher_detr.engine.prepare\(model, ...\)"
    ):
        trainer.train(0, 1)


def test_prepared_after_the_optimizer():
    model = foreign.make_retinanet()
    trainer = make_trainer(model, QATHook(QATSchedule(observe_iters=1)))
    prepare(model, bits=4, skip=foreign.SKIP)
    with pytest.raises(
        RuntimeError, match=r"does not know the learned scales .*: call prepare\(model\) before the"
    ):
        trainer.train(0, 1)


def test_prepared_after_the_optimizer_without_learned_scales():
    """The optimizer has all parameters there are."""
    model = foreign.make_retinanet()
    schedule = QATSchedule(weights=MINMAX, activations=MINMAX, observe_iters=1)
    trainer = make_trainer(model, QATHook(schedule), data=[foreign.make_batch(i) for i in range(3)])
    prepare(model, bits=4, skip=foreign.SKIP, weights=MINMAX, activations=MINMAX)
    trainer.train(0, 2)


def test_layers_that_are_not_there():
    penalty = FisherTracePenalty(own_loss, PenaltySettings(1.0, layers=("backbone", "neck")))
    trainer = make_trainer(make_net(), QATHook(FIXED_SCALES, penalty))
    with pytest.raises(ValueError, match="is at or below backbone or neck; there are inner, outer"):
        trainer.train(0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight is -1.0, expected a number that is not negative"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"interval": 0}, "interval is 0, expected 1 or more iterations"),
        ({"radius": 0.0}, "radius is 0.0, expected a part of the loss, above 0"),
        ({"warmup_iters": -1}, "warmup_iters is -1"),
        ({"clip_norm": -0.1}, "clip_norm is -0.1"),
    ],
)
def test_settings_of_the_penalty(settings, message):
    with pytest.raises(ValueError, match=f"Fisher-trace penalty: {message}"):
        PenaltySettings(**({"weight": 1.0} | settings))


def test_nothing_is_trained_where_the_penalty_cannot_be():
    """The error comes in the first iteration, before its step."""
    model = make_net()
    before = copy.deepcopy(model.state_dict())
    penalty = FisherTracePenalty(lambda model, batch: torch.tensor(1.0), PenaltySettings(1.0, warmup_iters=9))
    with pytest.raises(ValueError, match="does not depend on any weight"):
        make_trainer(model, QATHook(FIXED_SCALES, penalty)).train(0, 3)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_interval_and_warmup_begin_behind_the_observation():
    penalty = Given(*[1.0] * 9, weight=6.0, interval=2, warmup_iters=3)
    schedule = QATSchedule(weights=FIXED, activations=FIXED, observe_iters=3)
    trainer = make_trainer(make_net(calibrated=False), QATHook(schedule, penalty))
    trainer.train(0, 9)
    found = [(i, pytest.approx(value)) for value, i in trainer.storage.history(LOSS_NAME).values()]
    assert found == [(3, 2.0), (5, 6.0), (7, 6.0)]  # lambda / 3, then lambda


def test_evaluation_within_the_training_measures_nothing():
    model, penalty = make_net(), Given(*[1.0] * 3, interval=1)

    def evaluate():
        assert isinstance(model.eval()(make_batch()), torch.Tensor)
        model.train()

    make_trainer(model, QATHook(FIXED_SCALES, penalty), EvalHook(1, evaluate)).train(0, 3)
    assert penalty.measured == [3] * 3


def test_ranges_and_bits_are_logged():
    trainer = make_trainer(make_net(), QATHook(FIXED_SCALES))
    trainer.train(0, 2)
    logged = trainer.storage.histories()
    assert logged["bits/inner"].latest() == 4
    assert logged["ranges/outer.input_quantizer/high"].latest() == pytest.approx(2.0, abs=0.02)
    assert logged["ranges/outer.input_quantizer/low"].latest() == pytest.approx(-2.0, abs=0.02)


def drawn_by(trainer):
    found = []
    legacy = np.random.mtrand._rand  # of data sets and augmentations
    draws = (torch.rand, (1,)), (legacy.rand, ()), (random.random, ())
    trainer.register_hooks([Watch(lambda _: found.append(tuple(float(draw(*args)) for draw, args in draws)))])
    return found


def test_random_numbers_are_those_of_the_iteration(monkeypatch):
    first = make_trainer(make_net(), QATHook(FIXED_SCALES, seed=5))
    expected = drawn_by(first)
    first.train(0, 4)
    assert len({*expected}) == 4
    resumed = make_trainer(make_net(), QATHook(FIXED_SCALES, seed=5))
    found = drawn_by(resumed)
    resumed.train(2, 4)
    assert found == expected[2:]
    other = make_trainer(make_net(), QATHook(FIXED_SCALES, seed=5))
    found = drawn_by(other)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    other.train(0, 1)
    assert found[0] != expected[0]


def test_without_a_seed_random_numbers_are_the_trainers():
    trainer = make_trainer(make_net(dropout=0.0), QATHook(FIXED_SCALES))
    found = drawn_by(trainer)
    torch.manual_seed(3)
    trainer.train(0, 2)
    torch.manual_seed(3)
    assert [torch.rand(1).item() for _ in range(2)] == [numbers[0] for numbers in found]


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted(tmp_path, stop):
    """With dropout, observation, a reference that is a mean, and learned scales."""
    schedule = QATSchedule(observe_iters=2, range_method=RangeMethod.MAX)
    settings = PenaltySettings(1.0, interval=1, warmup_iters=3, clip_norm=0.0)

    def start(first=0):
        model = make_net(calibrated=False, scales=ScaleTraining.LSQ)
        hook = QATHook(schedule, FisherTracePenalty(own_loss, settings), seed=7)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        data = [make_batch(i) for i in range(first, 7)]
        return make_trainer(model, hook, data=data, optimizer=optimizer)

    def losses(trainer):
        return {i: value for value, i in trainer.storage.history("total_loss").values()}

    whole, part = start(), start()
    whole.train(0, 7)
    part.train(0, stop)
    torch.save({"trainer": part.state_dict(), "model": part.model.state_dict()}, tmp_path / "state.pth")

    stored = load_tensors(tmp_path / "state.pth")
    resumed = start(stop)
    resumed.model.load_state_dict(stored["model"])
    resumed.load_state_dict(stored["trainer"])
    resumed.train(stop, 7)
    assert losses(resumed) == {i: value for i, value in losses(whole).items() if i >= stop}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


class Several(SimpleTrainer):
    """Accumulates the gradients of two batches."""

    def run_step(self):
        self.optimizer.zero_grad()
        for _ in range(2):
            (sum(self.model(next(self._data_loader_iter)).values()) / 2).backward()
        self.optimizer.step()


class Scaled(SimpleTrainer):
    """Mixed precision's scaler, on the CPU; the loss of iteration 1 overflows."""

    grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def run_step(self):
        losses = sum(self.model(next(self._data_loader_iter)).values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(losses * (float("inf") if self.iter == 1 else 1.0)).backward()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def clipped_step(model, batches, norm, penalty_factor):
    """What a step of SGD at rate 1 takes off: the task's gradient clipped, and the penalty's as it is."""
    model = copy.deepcopy(model)
    for batch in batches:
        (sum(model(batch).values()) / len(batches)).backward()
    total = nn.utils.clip_grad_norm_(model.parameters(), norm)
    assert total > norm
    return [
        p.grad + penalty_factor * g for p, g in zip(model.parameters(), Given.gradients(model), strict=True)
    ]


@pytest.mark.parametrize(("kind", "batches"), [(SimpleTrainer, 1), (Several, 2), (Scaled, 1)])
def test_task_is_clipped_and_the_penalty_is_not(kind, batches):
    """The penalty's gradient is hundreds of times the norm that the task's is clipped to."""
    norm, data = 0.01, [make_batch(i) for i in range(8)]
    model = make_net(dropout=0.0)
    optimizer = build_optimizer(
        model, ParameterGroups(), name="SGD", base_lr=1.0, momentum=0.0, clip_norm=norm
    )
    trainer = kind(model, data, optimizer)
    penalty = Given(*[1.0] * 8, weight=0.5, interval=2)
    kept = {}
    hooks = [Watch(lambda t: kept.update({t.iter: copy.deepcopy([*t.model.parameters()])}))]
    hooks += [QATHook(FIXED_SCALES, penalty)]
    reference = make_net(dropout=0.0)
    trainer.register_hooks(hooks)
    expected = clipped_step(reference, data[:batches], norm, penalty_factor=2 * 0.5)
    trainer.train(0, 1)
    for before, after, step in zip(kept[0], model.parameters(), expected, strict=True):
        torch.testing.assert_close(before - after, step, rtol=1e-4, atol=1e-4)


def test_step_that_the_scaler_skips_leaves_nothing_apart():
    """Iteration 1 overflows; without its penalty, iteration 2 is clipped as a whole."""
    norm, data = 0.01, [make_batch(i) for i in range(8)]
    model = make_net(dropout=0.0)
    optimizer = build_optimizer(
        model, ParameterGroups(), name="SGD", base_lr=1.0, momentum=0.0, clip_norm=norm
    )
    Scaled.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = Scaled(model, data, optimizer)
    steps = {}

    def keep(trainer):
        steps[trainer.iter] = copy.deepcopy([*trainer.model.parameters()])

    penalty = Given(*[1.0] * 8, weight=0.5, interval=3)
    hook = QATHook(QATSchedule(weights=FIXED, activations=FIXED, observe_iters=1), penalty)
    trainer.register_hooks([Watch(keep), hook])
    trainer.train(0, 4)
    assert all(torch.equal(a, b) for a, b in zip(steps[1], steps[2], strict=True))
    moved = torch.stack([(a - b).detach().norm() for a, b in zip(steps[2], steps[3], strict=True)]).norm()
    assert moved == pytest.approx(norm, rel=1e-3)
