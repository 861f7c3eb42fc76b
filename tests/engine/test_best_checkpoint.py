"""The best model by a metric: which one is kept, and that a resumed run knows it."""

import math

import pytest
import torch
from detectron2.engine import HookBase

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.engine.best_checkpoint import BestCheckpointHook
from fisher_detr.engine.ema import ModelEMA
from tests.engine.toy_training import make_batches, make_toy, make_trainer, train

METRIC = "bbox/APcrit_person"
PERIOD = 2


class Evaluation(HookBase):
    """Gives the values one by one where an evaluation would, and keeps the weights that it saw."""

    def __init__(self, *values, name=METRIC):
        self.values, self.name, self.seen = list(values), name, []

    def _evaluate(self):
        weights = {key: value.clone() for key, value in self.trainer.model.state_dict().items()}
        self.seen.append(weights)
        self.trainer.storage.put_scalar(self.name, self.values.pop(0), smoothing_hint=False)
        self.trainer.storage.put_scalar("bbox/AP", 1.0, smoothing_hint=False)

    def after_step(self):
        done = self.trainer.iter + 1
        if done % PERIOD == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self):
        self._evaluate()


def run(folder, *values, start=0, metric=METRIC):
    """Trains with one evaluation for each value."""
    evaluation, best = Evaluation(*values), BestCheckpointHook(metric, PERIOD, str(folder))
    trainer = make_trainer(make_toy(), make_batches(PERIOD * len(values)), hooks=(evaluation, best))
    trainer.train(start, start + PERIOD * len(values))
    return evaluation, best


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ((3.0, 5.0, 4.0), 1),
        ((3.0, 5.0, 6.0), 2),
        ((5.0, 5.0), 0),
        ((math.nan, 0.0, math.nan), 1),
        ((7.0,), 0),
    ],
    ids=str,
)
def test_the_best_value_s_weights_are_kept(tmp_path, values, kept):
    evaluation, best = run(tmp_path, *values)
    stored = load_tensors(tmp_path / "model_best.pth")
    assert (stored["metric"], stored["value"]) == (METRIC, values[kept])
    assert stored["iteration"] == PERIOD * (kept + 1) - 1
    assert best.best == values[kept]
    weights = evaluation.seen[kept]
    assert all(torch.equal(stored["model"][name], value) for name, value in weights.items())
    assert not (tmp_path / "last_checkpoint").exists(), "a resumed training would go on from the best"
    SafeCheckpointer(make_toy()).load(str(tmp_path / "model_best.pth"))


def test_nothing_to_find_keeps_nothing(tmp_path):
    run(tmp_path, math.nan, math.nan)
    assert not list(tmp_path.iterdir())


def test_resumed_run_goes_on_from_the_best_value(tmp_path):
    run(tmp_path, 3.0, 5.0)
    first = (tmp_path / "model_best.pth").read_bytes()
    run(tmp_path, 4.0, 5.0, start=4)
    assert (tmp_path / "model_best.pth").read_bytes() == first
    run(tmp_path, 4.0, 5.5, start=8)
    stored = load_tensors(tmp_path / "model_best.pth")
    assert (stored["value"], stored["iteration"]) == (5.5, 11)


def test_a_new_run_and_another_metric_begin_anew(tmp_path):
    for options in ({"start": 0}, {"start": 4, "metric": "bbox/AP"}):
        run(tmp_path, 5.0)
        run(tmp_path, 0.5, **options)
        assert load_tensors(tmp_path / "model_best.pth")["value"] == (1.0 if "metric" in options else 0.5)


def test_a_training_that_fails_looks_no_more(tmp_path):
    class Fault(HookBase):
        def after_step(self):
            raise RuntimeError("a fault")

    best = BestCheckpointHook("bbox/none", 0, str(tmp_path))
    with pytest.raises(RuntimeError, match="a fault"):
        train(make_toy(), make_batches(2), hooks=(best, Fault()))


def test_a_metric_that_is_not_evaluated(tmp_path):
    with pytest.raises(ValueError) as error:
        run(tmp_path, 3.0, 4.0, metric="bbox/APcrit_persons")
    assert str(error.value).startswith("the evaluation gives no metric 'bbox/APcrit_persons'")
    assert f"did you mean {METRIC} or " in str(error.value)


def test_weights_that_were_evaluated_are_saved(tmp_path):
    """The averaged ones, where the metric is theirs."""
    ema, evaluation = ModelEMA(0.8), Evaluation(1.0)
    best = BestCheckpointHook(METRIC, 0, str(tmp_path), ema.applied)
    model = make_toy()
    train(model, make_batches(2), hooks=(ema, evaluation, best))
    stored = load_tensors(tmp_path / "model_best.pth")["model"]
    averages = ema.state_dict()["averages"]
    assert stored.keys() == averages.keys()
    assert all(torch.equal(stored[name], value) for name, value in averages.items())
    assert not torch.equal(stored["inner.weight"], model.inner.weight)
