"""An iteration in several passes is one large batch, in full and mixed precision."""

import copy

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from fisher_detr.engine import FisherTracePenalty, PenaltySettings, QATHook, QATSchedule
from fisher_detr.engine.micro_batches import MicroBatchTrainer, split_evenly
from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer
from fisher_detr.engine.penalty_term import LOSS_NAME
from fisher_detr.fisher import PenaltyMethod
from fisher_detr.quantization import ScaleTraining
from tests.checkpoint.small_detr import make_detr
from tests.engine.small_net import make_batch, make_net, own_loss
from tests.engine.toy_training import make_batches, make_toy, make_trainer, train
from tests.modeling.detectors import make_input

ITERATIONS = 3


def same(found: nn.Module, expected: nn.Module, **tolerance):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, msg=name, **tolerance)


def test_one_pass_is_detectron2_s_step():
    """Bit for bit, with a batch norm."""
    found, expected = make_toy(norm=True), make_toy(norm=True)
    batches = make_batches(ITERATIONS)
    logged, wanted = (train(m, batches, n).storage for m, n in ((found, 1), (expected, 0)))
    same(found, expected, rtol=0, atol=0)
    for name in ("total_loss", "loss_a", "loss_b"):
        assert logged.history(name).values() == wanted.history(name).values()


@pytest.mark.parametrize("parts", [2, 4])
def test_several_passes_are_one_large_batch(parts):
    found, expected, untrained = make_toy(), make_toy(), make_toy()
    batches = make_batches(ITERATIONS)
    logged, wanted = (train(m, batches, n).storage for m, n in ((found, parts), (expected, 0)))
    same(found, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found.inner.weight, untrained.inner.weight)
    for name in ("total_loss", "loss_a", "loss_b"):
        values, others = ([v for v, _ in x.history(name).values()] for x in (logged, wanted))
        np.testing.assert_allclose(values, others, rtol=1e-12)


@pytest.mark.parametrize("parts", [2, 4])
def test_several_passes_of_a_detr_with_equally_many_objects(parts):
    """Its losses are divided by the objects of the micro-batch."""
    torch.manual_seed(0)
    found = make_detr("FrozenBN", CLASS_LOSS="focal", NUM_CLASSES=5).double()
    expected = copy.deepcopy(found)
    batch = [make_input(64, 64, 3, seed) for seed in range(4)]
    train(found, [batch, batch], parts, sgd=1e-2)
    train(expected, [batch, batch], 0, sgd=1e-2)
    same(found, expected, rtol=1e-7, atol=1e-9)


def test_other_numbers_of_objects_weigh_otherwise():
    """What the documentation says of DETR: it is no mean over images."""
    torch.manual_seed(0)
    found = make_detr("FrozenBN", CLASS_LOSS="focal", NUM_CLASSES=5).double()
    expected = copy.deepcopy(found)
    batch = [make_input(64, 64, count, count) for count in (0, 9)]
    train(found, [batch], 2, sgd=1e-2)
    train(expected, [batch], 0, sgd=1e-2)
    assert not torch.allclose(found.class_embed.weight, expected.class_embed.weight, rtol=1e-7, atol=1e-9)


class Counter(HookBase):
    """Counts the optimizer's steps, and takes the number of each iteration."""

    def __init__(self):
        self.steps, self.iterations = 0, []

    def before_train(self):
        self.trainer.optimizer.register_step_post_hook(self._count)

    def after_step(self):
        self.iterations.append((self.trainer.iter, self.steps))

    def _count(self, *_):
        self.steps += 1


def test_an_iteration_is_one_step_of_the_optimizer():
    counter = Counter()
    train(make_toy(), make_batches(ITERATIONS), 4, (counter,))
    assert counter.iterations == [(0, 1), (1, 2), (2, 3)]


def test_a_loss_that_only_some_passes_have_is_a_part_of_the_mean():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, batch):
            losses = {"loss_a": self.weight * batch[0]}
            return losses | ({"loss_b": 3 * self.weight} if batch[0] > 1 else {})

    storage = train(Sometimes(), [[torch.tensor(1.0), torch.tensor(5.0)]], 2).storage
    assert storage.history("loss_a").latest() == 3.0
    assert storage.history("loss_b").latest() == 1.5
    assert storage.history("total_loss").latest() == 4.5


def test_a_batch_that_cannot_be_split():
    assert split_evenly([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    for batch, parts in (([1, 2, 3], 2), ([1], 2), ([], 1)):
        with pytest.raises(
            ValueError, match=f"{len(batch)} images of a process cannot be split into {parts}"
        ):
            split_evenly(batch, parts)


# Mixed precision. The scaler works on the CPU too; the toy model computes in float32 there.


def make_clipped(model):
    return build_optimizer(model, ParameterGroups(), name="ADAMW", base_lr=0.1, clip_norm=0.05)


class Full(nn.Module):
    """Keeps a model out of autocast."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        with torch.autocast("cpu", enabled=False):
            return self.model(batch)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_scaler_s_factor_is_out_of_what_is_clipped_and_stepped(parts):
    found, expected = (Full(make_toy(dtype=torch.float32)) for _ in range(2))
    batches = make_batches(ITERATIONS, dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = MicroBatchTrainer(found, batches, make_clipped(found), parts, scaler)
    trainer.train(0, ITERATIONS)
    MicroBatchTrainer(expected, batches, make_clipped(expected)).train(0, ITERATIONS)
    same(found, expected, rtol=1e-5, atol=1e-6)
    assert trainer.storage.history("total_loss").latest() < 10, "the scaled loss was logged"


def test_autocast_is_on_in_the_forward_pass():
    seen = []
    for enabled in (True, False):
        model = make_toy(dtype=torch.float32)
        model.outer.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        train(model, make_batches(1, dtype=torch.float32), grad_scaler=scaler)
    assert seen == [torch.bfloat16, torch.float32]


def test_gradients_that_overflow_skip_the_step_and_lower_the_scale():
    model, start = (Full(make_toy(dtype=torch.float32)) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=float(torch.finfo(torch.float32).max))
    train(model, [[1e3 * x for x in make_batches(1, dtype=torch.float32)[0]]], 2, grad_scaler=scaler)
    same(model, start, rtol=0, atol=0)
    assert scaler.get_scale() < torch.finfo(torch.float32).max


def test_the_scale_survives_a_resume():
    def scaler(scale):
        return torch.amp.GradScaler("cpu", init_scale=scale)

    batches = make_batches(1, dtype=torch.float32)
    model = make_toy(dtype=torch.float32)
    state = train(model, batches, grad_scaler=scaler(64.0)).state_dict()
    resumed = make_trainer(model, batches, grad_scaler=scaler(2.0))
    resumed.load_state_dict(state)
    assert resumed.grad_scaler.get_scale() == 64.0
    full = make_trainer(model, batches)
    full.load_state_dict(state)
    assert "grad_scaler" not in full.state_dict()
    resumed.load_state_dict(full.state_dict())  # from full to mixed precision
    assert resumed.grad_scaler.get_scale() == 64.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision needs a GPU")
@pytest.mark.parametrize("parts", [1, 2])
def test_mixed_precision_of_a_detr_on_a_gpu(parts):
    """Accumulated and clipped; near the training in full precision, whose losses it has in float32."""
    torch.manual_seed(0)
    start = make_detr("FrozenBN", CLASS_LOSS="focal", NUM_CLASSES=5).cuda()
    batch = [make_input(64, 64, 3, seed) for seed in range(4)]
    losses = {}
    for enabled in (False, True):
        model = copy.deepcopy(start)
        seen = []
        model.register_forward_hook(lambda _m, _i, out, seen=seen: seen.extend(out.values()))
        optimizer = build_optimizer(model, ParameterGroups(), name="SGD", base_lr=1e-3, clip_norm=0.1)
        scaler = torch.amp.GradScaler("cuda", enabled=enabled)
        trainer = MicroBatchTrainer(model, [batch] * 5, optimizer, parts, scaler)
        trainer.train(0, 5)
        assert {loss.dtype for loss in seen} == {torch.float32}
        losses[enabled] = [value for value, _ in trainer.storage.history("total_loss").values()]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.02)


@pytest.mark.parametrize(
    "scaler", [None, torch.amp.GradScaler("cpu", init_scale=256.0)], ids=["full", "mixed"]
)
def test_penalty_of_several_passes_is_that_of_one_large_batch(scaler):
    """Per image, beside a clipping that leaves it out; the scaler's factor, a power of 2, changes no bit."""
    models, logged = [], []
    for parts in (1, 2):
        model = make_net(dropout=0.0)
        model.norm = nn.Identity()
        optimizer = build_optimizer(model, ParameterGroups(), name="SGD", base_lr=0.1, clip_norm=0.01)
        settings = PenaltySettings(1.0, PenaltyMethod.EXACT, interval=2, normalize=False, clip_norm=0.0)
        trainer = MicroBatchTrainer(
            Full(model), [make_batch(seed, 4) for seed in range(4)], optimizer, parts, scaler
        )
        schedule = QATSchedule(ScaleTraining.FIXED, ScaleTraining.FIXED)
        trainer.register_hooks([QATHook(schedule, FisherTracePenalty(own_loss, settings))])
        trainer.train(0, 4)
        models.append(model)
        logged.append(trainer.storage.history(LOSS_NAME).values())
    same(models[1], models[0], rtol=1e-4, atol=1e-6)
    assert [iteration for _, iteration in logged[0]] == [iteration for _, iteration in logged[1]] == [0, 2]
    np.testing.assert_allclose(logged[1], logged[0], rtol=1e-4)
