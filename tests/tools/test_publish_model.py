"""Runs of all kinds become entries; their commands print their numbers."""

import shlex

import pytest
import torch
from detectron2.engine import default_argument_parser

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine import run_training_command
from fisher_detr.model_zoo import get, weights_path
from fisher_detr.quantization import load_packed
from fisher_detr.structures import Arm
from tests.tools.driver import QUANTIZE

QAT = [*QUANTIZE, "QUANT.QAT.ENABLED", "True", "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"]


def again(found, tmp_path):
    """What the entry's own command prints."""
    words = shlex.split(found.command)
    assert words[:2] == ["python", "tools/train_net.py"]
    args = default_argument_parser().parse_args(words[2:])
    args.opts += ["OUTPUT_DIR", str(tmp_path / "again")]
    return run_training_command(args)["bbox"]


def test_training(publish, trained, zoo):
    found = publish(trained.output)
    assert "--eval-only MODEL.WEIGHTS zoo://tiny" in found.command
    assert found.training.command == "python tools/train_net.py --config-file tiny.yaml"
    assert 0 <= found.training.seconds < 240 and found.quantization is None
    assert found.file == f"tiny-{found.sha256[:8]}.pth"
    assert found.categories == {"cat": "animal", "dog": "animal", "car": "vehicle"}
    assert str(trained.output) not in load_tensors("zoo://tiny")["info"]["config"]
    shipped, made = load_tensors("zoo://tiny"), load_tensors(trained.output / "model_final.pth")
    assert shipped.keys() == {"model", "query_groups", "info"} and "trainer" in made
    assert shipped["info"]["metrics"]["AP"] == found.metrics["AP"].value
    assert all(torch.equal(value, made["model"][key]) for key, value in shipped["model"].items())
    assert again(found, zoo)["AP"] == pytest.approx(found.metrics["AP"].value, abs=0.01)
    row = next(line for line in (zoo / "MODEL_ZOO.md").read_text().splitlines() if "[`tiny`]" in line)
    assert f"{found.metrics['AP'].value:.1f}" in row


def test_model_that_was_quantized_and_trained_on(publish, trained, zoo):
    folder = zoo / "qat"
    trained.run(*QAT, "MODEL.WEIGHTS", "output/model_final.pth", "OUTPUT_DIR", folder)
    found = publish(folder)
    assert found.quantization.arm is Arm.FISHER_CRITICAL and found.quantization.critical_set == "animal"
    assert found.size_bytes < 4 * found.parameters
    assert "MODEL.WEIGHTS output/model_final.pth" in found.training.command
    assert "start" not in found.training.command and "TEACHER" not in found.training.command
    assert "SOLVER.MAX_ITER 2" in found.training.command and "SOLVER" not in found.command
    assert "OUTPUT_DIR" not in found.command + found.training.command
    assert again(found, zoo)["AP"] == pytest.approx(found.metrics["AP"].value, abs=0.01)
    shipped, made = (
        load_tensors(path)["model"] for path in (weights_path("tiny"), folder / "model_final.pth")
    )
    assert shipped.keys() == made.keys()
    rounded = {f"{layer}.weight" for layer in load_packed(weights_path("tiny")).bits}
    assert all(torch.equal(shipped[name], made[name]) for name in made.keys() - rounded)


def test_quantization_after_training(publish, trained, zoo):
    folder = zoo / "ptq"
    words = [*QUANTIZE, "ALLOCATION.ARM", "uniform", "ALLOCATION.AVERAGE_BITS", "3"]
    metrics = trained.run(*words, "MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", folder)
    found = publish(folder, "--seconds", 7, "--command", "python tools/train_net.py ...")
    assert found.quantization.arm is Arm.UNIFORM and found.quantization.average_bits == 3
    assert (found.training.seconds, found.training.command) == (7, "python tools/train_net.py ...")
    assert found.file.endswith(".safetensors")
    assert found.metrics["AP"].value == pytest.approx(metrics["bbox"]["AP"], abs=0.01)
    assert again(found, zoo)["AP"] == pytest.approx(metrics["bbox"]["AP"], abs=0.01)
    info = load_packed(weights_path("tiny")).info
    assert info.keys() == {"config", "categories", "metrics", "allocation", "query_groups"}
    assert info["categories"] == found.categories
    assert info["metrics"] == {name: metric.value for name, metric in found.metrics.items()}
    assert info["allocation"] == {"arm": "uniform", "average_bits": 3.0, "activation_bits": 8}
    assert get("tiny").num_classes == 3


def test_in_half_precision(publish, trained, zoo):
    found = publish(trained.output, "--half")
    shipped, made = (
        load_tensors("zoo://tiny")["model"],
        load_tensors(trained.output / "model_final.pth")["model"],
    )
    for name, value in made.items():
        assert torch.equal(shipped[name], value.half() if value.is_floating_point() else value)
    loaded = get("tiny").state_dict()
    assert all(value.dtype == made[name].dtype for name, value in loaded.items())
    assert again(found, zoo)["AP"] == pytest.approx(found.metrics["AP"].value, abs=0.01)


def test_weights_that_are_put_elsewhere(publish, output, zoo, capsys):
    found = publish(output, "--url", "https://example.org/models/")
    assert found.url == f"https://example.org/models/{found.file}"
    assert (output / found.file).is_file() and not (zoo / "weights").exists()
    assert f"upload {output}/{found.file} to {found.url}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="url 'http://example.org/m': give the https address"):
        publish(output, "--url", "http://example.org/m")


def test_widths_that_are_not_those_of_the_config(publish, trained, zoo):
    folder = zoo / "three"
    words = [*QUANTIZE, "MODEL.WEIGHTS", trained.output / "model_final.pth", "OUTPUT_DIR", folder]
    trained.run(*words, "ALLOCATION.AVERAGE_BITS", "3")
    message = (
        r"are (2\.9|3\.0)\d bits wide on average, ALLOCATION.AVERAGE_BITS is 4: name the width they have"
    )
    with pytest.raises(SystemExit, match=message):
        publish(folder, "--command", "python tools/train_net.py ...", "ALLOCATION.AVERAGE_BITS", "4")


def test_mistakes(publish, trained, output, zoo):
    with pytest.raises(
        SystemExit, match="holds no model_final.pth or model_quantized.pth: name the OUTPUT_DIR"
    ):
        publish(zoo)
    with pytest.raises(SystemExit, match="holds no best.pth: name the OUTPUT_DIR"):
        publish(output, "--weights", "best.pth")
    with pytest.raises(SystemExit, match="name paths of this machine .DATASETS.REGISTER .*: put them into"):
        publish(output, "DATASETS.REGISTER", str((f"tiny:{trained.data}/annotations.json:{trained.data}",)))
    with pytest.raises(SystemExit, match="publish_model: name 'Tiny': use lower-case letters"):
        publish(output, "--name", "Tiny")
    with pytest.raises(SystemExit, match="config '/tiny.yaml' is not a path in the repository"):
        publish(output, "--config-file", "/tiny.yaml")
    (output / "log.txt").unlink()
    with pytest.raises(SystemExit, match="does not tell what it took: give --seconds"):
        publish(output)
    (output / "config.yaml").unlink()
    with pytest.raises(SystemExit, match=r"config \S*config.yaml of \S*model_final.pth does not exist"):
        publish(output)
    assert not list((zoo / "entries").iterdir())
