"""Quantization-aware training by the commands of tools/train_net.py, on eight images."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase, default_argument_parser

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.engine import Trainer, commands, load_config, run_training_command
from fisher_detr.engine.qat import is_quantized, stored_widths
from fisher_detr.quantization import learned_scales, quantized_layers, save_packed
from tests.engine.tiny_coco import make_tiny_coco, write_annotations, write_config

START = "start/model_quantized.pth"
QAT = {
    "QUANT.ENABLED": True,
    "QUANT.QAT.ENABLED": True,
    "QUANT.WEIGHT.SCALE": "max",
    "ALLOCATION.ARM": "uniform",
    "ALLOCATION.AVERAGE_BITS": 4,
    "DATASETS.TEST": "()",
    "TEST.EVAL_PERIOD": 0,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": "()",
    "SOLVER.BASE_LR": 1e-4,
}
PENALTY = {"QUANT.QAT.PENALTY.WEIGHT": 0.5, "QUANT.QAT.PENALTY.INTERVAL": 2}


class Work:
    """A data set, a config, and an untrained model in full precision to start from."""

    def __init__(self, root: Path):
        self.data = root / "data"
        self.annotations = make_tiny_coco(self.data)
        self.name = f"qat_{root.name}"
        self.config = write_config(root / "tiny.yaml", self.data, root / "unused", self.name)
        self.weights = self.save_model(root, "float")

    def save_model(self, folder: Path, name: str, **options) -> Path:
        torch.manual_seed(0)
        cfg = load_config(str(self.config), self.words(options))
        SafeCheckpointer(Trainer.build_float_model(cfg), str(folder)).save(name, tag=False)
        return folder / f"{name}.pth"

    @staticmethod
    def words(options: dict) -> list[str]:
        return [str(word) for pair in options.items() for word in pair]

    def run(self, output: Path, options: dict | None = None, *flags: str) -> dict:
        chosen = {"MODEL.WEIGHTS": self.weights, "OUTPUT_DIR": output} | QAT | (options or {})
        words = [*flags, "--config-file", str(self.config), *self.words(chosen)]
        return run_training_command(default_argument_parser().parse_args(words))

    def refusal(self, output: Path, options: dict) -> str:
        """The one line that a training is refused with; nothing was computed."""
        with pytest.raises(ValueError) as error:
            self.run(output, options)
        assert "\n" not in str(error.value)
        assert not (output / "last_checkpoint").exists()
        return str(error.value)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Work(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def quantized(work, tmp_path_factory):
    """A file that the post-training quantization wrote, of mixed widths."""
    folder = tmp_path_factory.mktemp("quantized")
    work.run(
        folder,
        {"QUANT.QAT.ENABLED": False, "ALLOCATION.ARM": "fisher_critical", "DATASETS.TEST": (work.name,)},
    )
    return folder / "model_quantized.pth"


@pytest.fixture
def trainers(monkeypatch):
    """Every trainer whose training begins."""
    kept, original = [], Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self: kept.append(self) or original(self))
    return kept


@pytest.fixture
def quantizations(monkeypatch):
    """Where post-training quantization is called, each time."""
    calls, original = [], commands.run_post_training
    monkeypatch.setattr(
        commands, "run_post_training", lambda cfg, model: calls.append(cfg.OUTPUT_DIR) or original(cfg, model)
    )
    return calls


class Watch(HookBase):
    """Keeps the losses of every iteration, and ends the training after one, as a kill would."""

    def __init__(self, losses, end=None):
        self._losses, self._end = losses, end

    def after_step(self):
        found = self.trainer.storage.latest()
        kept = {name: value for name, (value, _) in found.items() if "loss" in name or "trace" in name}
        self._losses[self.trainer.iter] = kept
        if self.trainer.iter == self._end:
            raise KeyboardInterrupt


def metrics(output: Path) -> dict[int, dict[str, float]]:
    """The last line of each iteration."""
    lines = (output / "metrics.json").read_text().splitlines()
    return {line["iteration"]: line for line in map(json.loads, lines)}


def outputs(model, cfg):
    """Logits and boxes of the data set's images in eval mode."""
    batch = [sample for batch in Trainer.build_test_loader(cfg, cfg.DATASETS.TRAIN[0]) for sample in batch]
    with torch.no_grad():
        found = model.eval().decode(model.preprocess(batch))
    return found.logits, found.boxes


def same(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


SCALES = [("lsq", "lsq"), ("lsq", "pact"), ("minmax", "minmax"), ("fixed", "fixed")]


@pytest.mark.parametrize(("weights", "activations"), SCALES)
def test_evaluated_is_what_was_trained(work, trainers, tmp_path, weights, activations):
    """The model that `--eval-only` builds from the checkpoint has the outputs of the one in the trainer."""
    scales = {"QUANT.QAT.WEIGHT_SCALE": weights, "QUANT.QAT.ACTIVATION_SCALE": activations}
    work.run(tmp_path, scales)
    trainer = trainers[0]
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    model = commands.load_quantized(cfg)
    assert not list(learned_scales(model))
    assert bool(list(learned_scales(trainer.model))) == ("lsq" in (weights, activations))
    for found, expected in zip(outputs(model, cfg), outputs(trainer.model, cfg), strict=True):
        assert torch.equal(found, expected)
    start = load_tensors(tmp_path / START)["model"]
    moved = {
        key
        for key, value in load_tensors(cfg.MODEL.WEIGHTS)["model"].items()
        if not torch.equal(value, start[key])
    }
    assert any(key.endswith("weight_quantizer.scale") for key in moved) == (weights != "fixed")
    assert any(key.endswith("input_quantizer.scale") for key in moved) == (activations != "fixed")
    assert "backbone.stem.conv1.weight" in moved


def test_eval_only_gives_the_metrics_of_the_training(work, tmp_path):
    evaluated = {"DATASETS.TEST": (work.name,)}
    expected = work.run(tmp_path, evaluated)
    found = work.run(tmp_path, evaluated | {"MODEL.WEIGHTS": tmp_path / "model_final.pth"}, "--eval-only")
    assert found["bbox"].keys() == expected["bbox"].keys()
    for name, value in expected["bbox"].items():
        np.testing.assert_equal(found["bbox"][name], value, err_msg=name)


@pytest.mark.parametrize("objective", ["critical", "overall"])
@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_penalty_is_logged_once_in_an_interval(work, tmp_path, method, objective):
    """At first it is lambda: the trace over itself."""
    kind = {"QUANT.QAT.PENALTY.METHOD": method, "QUANT.QAT.PENALTY.OBJECTIVE": objective}
    work.run(tmp_path, PENALTY | kind | {"SOLVER.MAX_ITER": 1})
    found = metrics(tmp_path)[0]
    assert found["loss_fisher_trace"] == pytest.approx(0.5)
    assert found["fisher_trace"] > 0
    assert found["total_loss"] == pytest.approx(sum(v for k, v in found.items() if k.startswith("loss_")))
    assert found["bits/input_proj"] == 4
    low, high = (found[f"ranges/input_proj.input_quantizer/{end}"] for end in ("low", "high"))
    assert low <= 0 < high


def test_overall_and_critical_trace_differ(work, tmp_path):
    traces = set()
    for objective in ("critical", "overall"):
        work.run(
            tmp_path / objective, PENALTY | {"QUANT.QAT.PENALTY.OBJECTIVE": objective, "SOLVER.MAX_ITER": 1}
        )
        traces.add(metrics(tmp_path / objective)[0]["fisher_trace"])
    assert len(traces) == 2


# Everything that has a state or draws numbers.
EVERYTHING = PENALTY | {
    "MODEL.DETR.DROPOUT": 0.2,
    "CRITICAL.TRAIN_WEIGHT": 0.1,
    "QUANT.QAT.DISTILL.ENABLED": True,
    "QUANT.QAT.PENALTY.WARMUP_ITERS": 3,
    "QUANT.QAT.PENALTY.INTERVAL": 1,
    "QUANT.QAT.OBSERVE_ITERS": 3,
    "QUANT.QAT.FREEZE_RANGES_ITER": 6,
    "SOLVER.MAX_ITER": 7,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "MODEL_EMA.ENABLED": True,
    "MODEL_EMA.DECAY": 0.5,
}


@pytest.mark.parametrize(("scales", "killed"), [(("minmax", "minmax"), 2), (("lsq", "pact"), 4)], ids=str)
def test_killed_and_resumed_equals_uninterrupted(work, tmp_path, monkeypatch, scales, killed):
    """Checkpoints are written after iterations 1, while activations are observed, 3 and 5."""
    keys = ("QUANT.QAT.WEIGHT_SCALE", "QUANT.QAT.ACTIVATION_SCALE")
    options, original = EVERYTHING | dict(zip(keys, scales, strict=True)), Trainer.build_hooks

    def run(folder, *flags, end=None):
        losses = {}
        watch = Watch(losses, end)
        monkeypatch.setattr(Trainer, "build_hooks", lambda self: [*original(self), watch])
        work.run(folder, options, *flags)
        return losses

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", end=killed)
    found = run(tmp_path / "part", "--resume")
    assert min(found) == killed
    assert found == {iteration: expected[iteration] for iteration in found}
    assert {"loss_fisher_trace", "loss_critical", "loss_distill_ce"} <= found[killed + 1].keys()
    for file in ("model_final.pth", "model_final_ema.pth"):
        part, whole = (load_tensors(tmp_path / name / file) for name in ("part", "whole"))
        same(part["model"], whole["model"])
    part, whole = (load_tensors(tmp_path / name / "model_final.pth") for name in ("part", "whole"))
    assert part["trainer"]["hooks"]["QATHook"] == whole["trainer"]["hooks"]["QATHook"]


def test_start_is_made_anew_unless_the_run_is_resumed(work, tmp_path, quantizations):
    """A start that an earlier attempt has left may be of other settings."""
    work.run(tmp_path, {"SOLVER.MAX_ITER": 1, "SOLVER.CHECKPOINT_PERIOD": 1})
    assert quantizations == [str(tmp_path / "start")]
    work.run(tmp_path, {"SOLVER.MAX_ITER": 2}, "--resume")
    assert len(quantizations) == 1
    (tmp_path / "last_checkpoint").unlink()
    work.run(tmp_path, {"SOLVER.MAX_ITER": 1})
    assert len(quantizations) == 2


def test_resumed_before_the_first_checkpoint_starts_from_what_is_there(work, tmp_path, quantizations):
    shutil.copytree(_started(work, tmp_path / "first") / "start", tmp_path / "second" / "start")
    quantizations.clear()
    work.run(tmp_path / "second", {}, "--resume")
    assert quantizations == []
    same(
        load_tensors(tmp_path / "second" / "model_final.pth")["model"],
        load_tensors(tmp_path / "first" / "model_final.pth")["model"],
    )


def _started(work, output):
    work.run(output)
    return output


def test_second_run_in_a_folder_is_refused(work, tmp_path):
    work.run(tmp_path, {"SOLVER.MAX_ITER": 1})
    with pytest.raises(ValueError, match="holds a training already: go on with --resume"):
        work.run(tmp_path)


def test_quantized_weights_are_where_the_training_starts(work, quantized, trainers, tmp_path, quantizations):
    """Their widths hold, whatever ALLOCATION says; training them goes on from any kind of scale."""
    work.run(tmp_path, {"MODEL.WEIGHTS": quantized, "ALLOCATION.AVERAGE_BITS": 8})
    assert quantizations == []
    assert not (tmp_path / "start").exists()
    stored = load_tensors(quantized)
    layers = quantized_layers(trainers[0].model)
    assert {name: layer.weight_quantizer.spec.bits for name, layer in layers.items()} == stored["bits"]
    assert len(set(stored["bits"].values())) > 1
    assert stored_widths(stored["model"], Trainer.build_float_model(trainers[0].cfg), ()) == stored["bits"]
    again = {"MODEL.WEIGHTS": tmp_path / "model_final.pth", "QUANT.QAT.WEIGHT_SCALE": "minmax"}
    work.run(tmp_path / "again", again)
    assert quantizations == []


def test_a_packed_model_is_where_the_training_starts(work, quantized, tmp_path, quantizations, trainers):
    path, stored = tmp_path / "packed.safetensors", load_tensors(quantized)
    save_packed(path, stored["model"])
    work.run(tmp_path / "trained", {"MODEL.WEIGHTS": path})
    assert quantizations == [] and is_quantized(str(path))
    layers = quantized_layers(trainers[0].model)
    assert {name: layer.weight_quantizer.spec.bits for name, layer in layers.items()} == stored["bits"]


def test_what_is_quantized(work, quantized, tmp_path):
    assert is_quantized(str(quantized))
    assert not is_quantized(str(work.weights))
    assert not is_quantized(str(tmp_path / "none.pth"))
    (tmp_path / "zoo.pkl").write_bytes(b"no tensors of torch")
    assert not is_quantized(str(tmp_path / "zoo.pkl"))
    assert not is_quantized("detectron2://ImageNetPretrained/MSRA/R-50.pkl")


MISTAKES = {
    "no weights": (
        {"MODEL.WEIGHTS": ""},
        "MODEL.WEIGHTS is empty: name the checkpoint to quantize and train",
    ),
    "lambda": (
        {"QUANT.QAT.PENALTY.WEIGHT": -1.0},
        "QUANT.QAT.PENALTY: .*weight is -1.0, expected a number that is not",
    ),
    "interval": ({"QUANT.QAT.PENALTY.INTERVAL": 0}, "interval is 0, expected 1 or more"),
    "method": (
        {"QUANT.QAT.PENALTY.METHOD": "exakt"},
        "METHOD is 'exakt', expected one of exact, finite_difference",
    ),
    "layers": (
        PENALTY | {"QUANT.QAT.PENALTY.PARAMS": "('neck',)"},
        "no trained quantized layer of the model is at or below neck; there are backbone, input_proj, ",
    ),
    "no critical set": (
        PENALTY | {"CRITICAL.TARGET": ""},
        "QUANT.QAT.PENALTY needs a critical set, name it there",
    ),
    "pact": (
        {"QUANT.QAT.WEIGHT_SCALE": "pact"},
        "WEIGHT_SCALE is 'pact', which is about activations: take 'lsq'",
    ),
    "freeze": (
        {"QUANT.QAT.OBSERVE_ITERS": 4, "QUANT.QAT.FREEZE_RANGES_ITER": 3},
        "QUANT.QAT: freeze_ranges_iter is 3, before the last of 4 observe_iters",
    ),
    "momentum": ({"QUANT.QAT.RANGE_MOMENTUM": 0.0}, "RANGE_MOMENTUM is 0, expected above 0 and at most 1"),
    "temperature": (
        {"QUANT.QAT.DISTILL.TEMPERATURE": 0.0},
        "QUANT.QAT.DISTILL: .*temperature is 0.0, expected",
    ),
    "only observed": (
        {"QUANT.QAT.OBSERVE_ITERS": 3},
        "OBSERVE_ITERS is 3 and SOLVER.MAX_ITER 3: activations would never be quantized",
    ),
    "evaluated too early": (
        {"QUANT.QAT.OBSERVE_ITERS": 2, "TEST.EVAL_PERIOD": 2},
        "EVAL_PERIOD is 2 and QUANT.QAT.OBSERVE_ITERS 2: activations are not quantized by then",
    ),
    "not quantized": (
        {
            "QUANT.ENABLED": False,
            "QUANT.QAT.ENABLED": False,
            "QUANT.QAT.PENALTY.WEIGHT": -1.0,
            "QUANT.QAT.DISTILL.ENABLED": True,
        },
        "PENALTY.WEIGHT and QUANT.QAT.DISTILL.ENABLED would have no effect, QUANT.QAT.ENABLED is False",
    ),
    "re-weighting": ({"CRITICAL.TRAIN_WEIGHT": -1.0}, "CRITICAL.TRAIN_WEIGHT is -1, expected 0"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_before_anything_is_trained(work, tmp_path, case):
    options, message = MISTAKES[case]
    found = work.refusal(tmp_path, options)
    assert re.search(message, found), found


def test_teacher_of_another_shape(work, tmp_path):
    teacher = work.save_model(tmp_path, "teacher", **{"MODEL.DETR.NUM_QUERIES": 9})
    options = {"QUANT.QAT.DISTILL.ENABLED": True, "QUANT.QAT.DISTILL.TEACHER": teacher}
    found = work.refusal(tmp_path / "output", options)
    assert str(teacher) in found
    assert "query_embed.weight is (9, 16), the model has (6, 16)" in found
    assert not (tmp_path / "output" / "start").exists(), "quantized before the mistake was told"


def test_quantized_weights_have_no_teacher(work, quantized, tmp_path):
    options = {"MODEL.WEIGHTS": quantized, "QUANT.QAT.DISTILL.ENABLED": True}
    assert "is quantized already: name the checkpoint in full precision" in work.refusal(tmp_path, options)
    work.run(tmp_path, options | {"QUANT.QAT.DISTILL.TEACHER": work.weights, "SOLVER.MAX_ITER": 1})


def test_quantized_teacher(work, quantized, tmp_path):
    options = {"QUANT.QAT.DISTILL.ENABLED": True, "QUANT.QAT.DISTILL.TEACHER": quantized}
    assert "was made for another model" in work.refusal(tmp_path, options)


@pytest.mark.parametrize("wants", [PENALTY, {"CRITICAL.TRAIN_WEIGHT": 1.0}], ids=["penalty", "re-weighting"])
def test_set_without_an_object_in_the_training_data(work, tmp_path, wants):
    annotations = [a for a in work.annotations["annotations"] if a["category_id"] != 5]
    write_annotations(work.data, work.annotations | {"annotations": annotations}, f"{tmp_path.name}.json")
    name = f"without_dogs_{tmp_path.name}"
    data = {
        "DATASETS.REGISTER": (f"{name}:{work.data}/{tmp_path.name}.json:{work.data}",),
        "DATASETS.TRAIN": (name,),
        "CRITICAL.TARGET": "dog",
    }
    message = "CRITICAL.TARGET 'dog' has no object in the training data"
    assert message in work.refusal(tmp_path / "refused", data | wants)
    work.run(
        tmp_path / "one_set_has_some",
        data | wants | {"DATASETS.TRAIN": (name, work.name), "SOLVER.MAX_ITER": 1},
    )
    work.run(tmp_path / "none_needed", data | {"SOLVER.MAX_ITER": 1})


def test_evaluation_of_a_checkpoint_in_full_precision(work, tmp_path):
    with pytest.raises(ValueError, match="is in full precision: leave out --eval-only to quantize it"):
        work.run(tmp_path, {"DATASETS.TEST": (work.name,)}, "--eval-only")
