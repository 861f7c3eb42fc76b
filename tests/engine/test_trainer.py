"""The whole trainer on eight small images: micro-batches, averaged weights, best model, scalars, resume."""

import json
import shutil

import pytest
import torch
from detectron2.engine import HookBase, default_argument_parser
from detectron2.evaluation.testing import flatten_results_dict

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine import Trainer, run_training_command, setup
from tests.engine import recorded
from tests.engine.test_distributed import torchrun
from tests.engine.tiny_coco import make_tiny_coco, write_config

NAME = "tiny_averaged"
ITERATIONS = 6
BEST = "ema/bbox/APcrit_animal"
OPTIONS = {
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.ACCUMULATION_STEPS": 2,
    "SOLVER.BASE_LR": 0.01,
    "MODEL.DETR.DROPOUT": 0.2,
    "MODEL_EMA.ENABLED": True,
    "MODEL_EMA.DECAY": 0.6,
    "TEST.BEST_METRIC": BEST,
}


class Shout(HookBase):
    """A user's hook, which adds a scalar."""

    def after_step(self):
        self.trainer.storage.put_scalar("shout", self.trainer.iter, smoothing_hint=False)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_coco(folder / "data")
    return write_config(folder / "tiny.yaml", folder / "data", folder / "output", NAME)


def parse(config, output, *words):
    options = [item for pair in OPTIONS.items() for item in pair]
    resume = ["--resume"] if (output / "last_checkpoint").exists() else []
    options = ["--config-file", config, *resume, "OUTPUT_DIR", output, *options, *words]
    return default_argument_parser().parse_args([str(word) for word in options])


def train(config, output, *words):
    args = parse(config, output, *words)
    trainer = Trainer(setup(args))
    trainer.register_hooks([Shout()])
    trainer.resume_or_load(args.resume)
    return trainer.train()


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder and the metrics of an uninterrupted training."""
    output = tmp_path_factory.mktemp("whole")
    return output, train(config, output)


def scalars(output):
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return {(name, line["iteration"]): value for line in lines for name, value in line.items()}


def same_weights(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(value, found[name]) for name, value in expected.items())


def detections(output):
    return json.loads((output / "inference" / NAME / "coco_instances_results.json").read_text())


def test_averaged_weights_are_reported_beside_the_model_s(whole):
    output, metrics = whole
    flat = flatten_results_dict(metrics)
    assert {name.removeprefix("ema/") for name in flat if name.startswith("ema/")} == {
        name for name in flat if not name.startswith("ema/")
    }
    assert BEST in flat and BEST.removeprefix("ema/") in flat
    evaluated = {iteration for name, iteration in scalars(output) if name == BEST}
    assert evaluated == {iteration for name, iteration in scalars(output) if name == "bbox/AP"}
    assert evaluated, "no evaluation has reached metrics.json"
    assert detections(output / "ema") != detections(output)


def test_averaged_weights_are_a_checkpoint_to_evaluate(config, whole, tmp_path):
    output, metrics = whole
    final, averaged = (load_tensors(output / f"model_final{end}.pth")["model"] for end in ("", "_ema"))
    assert not same_weights(averaged, final)
    args = parse(config, tmp_path, "MODEL.WEIGHTS", output / "model_final_ema.pth")
    args.eval_only = True
    found = run_training_command(args)
    assert detections(tmp_path) == detections(output / "ema")
    assert found["bbox"]["AP"] == metrics["ema"]["bbox"]["AP"]


def test_best_model_is_kept_by_its_metric(whole):
    output, metrics = whole
    stored = load_tensors(output / "model_best.pth")
    assert stored["metric"] == BEST
    assert stored["value"] >= flatten_results_dict(metrics)[BEST]
    assert stored["iteration"] in (1, 3, 5)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    # Of the averaged weights, as the checkpoint of that iteration has them.
    at = load_tensors(output / f"model_{stored['iteration']:07d}.pth")["trainer"]["hooks"]["ModelEMA"]
    assert all(torch.equal(stored["model"][name], value) for name, value in at["averages"].items())


def test_killed_and_resumed_run_is_the_uninterrupted_one(config, whole, tmp_path):
    """Killed after its second evaluation, which its last checkpoint does not know of."""
    output, metrics = whole
    folder = tmp_path / "resumed"
    folder.mkdir()
    for name in ("model_0000003.pth", "model_best.pth"):
        shutil.copy(output / name, folder)
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    torch.manual_seed(9)
    again = train(config, folder)
    assert detections(folder / "ema") == detections(output / "ema")
    assert flatten_results_dict(again).keys() == flatten_results_dict(metrics).keys()
    for name in ("model_final", "model_final_ema", "model_best"):
        found, expected = (load_tensors(path / f"{name}.pth") for path in (folder, output))
        assert same_weights(found["model"], expected["model"]), name
        assert found["iteration"] == expected["iteration"]
    found, expected = (
        load_tensors(path / "model_final.pth")["trainer"]["hooks"] for path in (folder, output)
    )
    assert same_weights(found["ModelEMA"]["averages"], expected["ModelEMA"]["averages"])


def test_iterations_are_steps_of_the_optimizer(whole):
    state = load_tensors(whole[0] / "model_final.pth")
    assert state["iteration"] == ITERATIONS - 1
    optimizer = state["trainer"]["_trainer"]["optimizer"]["state"]
    assert {int(of_parameter["step"]) for of_parameter in optimizer.values()} == {ITERATIONS}
    assert state["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == ITERATIONS


def test_every_loss_and_metric_reaches_tensorboard(whole):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output, metrics = whole
    events = accumulator.EventAccumulator(str(output))
    events.Reload()
    losses = {f"loss_{kind}{layer}" for kind in ("ce", "bbox", "giou") for layer in ("", "_0")}
    told = losses | {"total_loss", "lr", "time", "shout"} | flatten_results_dict(metrics).keys()
    assert told <= set(events.Tags()["scalars"])
    assert events.Scalars("shout")
    assert all(event.value == event.step for event in events.Scalars("shout"))


def test_a_metric_that_there_is_not_is_told_by_the_config(config, tmp_path):
    with pytest.raises(ValueError, match="did you mean ema/bbox/APcrit_animal") as error:
        setup(parse(config, tmp_path, "TEST.BEST_METRIC", "ema/APcrit_animal"))
    assert "\n" not in str(error.value)


def test_two_ranks_report_the_average_that_they_save(config, tmp_path):
    options = [item for pair in OPTIONS.items() for item in pair]
    done = torchrun(
        *(recorded.__file__, tmp_path / "told.json", "--config-file", config),
        *("OUTPUT_DIR", tmp_path / "two", *options),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reported = json.loads((tmp_path / "told.json").read_text())["metrics"]
    assert reported.keys() == {"bbox", "ema"}
    args = parse(config, tmp_path / "one", "MODEL.WEIGHTS", tmp_path / "two" / "model_final_ema.pth")
    args.eval_only = True
    assert run_training_command(args)["bbox"]["AP"] == reported["ema"]["bbox"]["AP"]
    assert detections(tmp_path / "one") == detections(tmp_path / "two" / "ema")
    assert load_tensors(tmp_path / "two" / "model_best.pth")["metric"] == BEST
