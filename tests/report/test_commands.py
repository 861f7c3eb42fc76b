"""The commands of a page are commands that the programs take, with the files of its runs in them."""

import html
import json
import re
import shlex
import shutil

import pytest

from fisher_detr.engine import read_config
from fisher_detr.files import write_json
from fisher_detr.report import ReportRequest, build_report, find_arms
from fisher_detr.report.checkpoints import Checkpoint, checkpoint_of
from fisher_detr.report.commands import Commands
from tests.docs.commands import parse
from tests.docs.pages import REPOSITORY
from tests.report.runs import DATA, make_runs

CONFIG = "configs/street/detr_small_ptq.yaml"
PLACEHOLDER = re.compile(r"(?!OUTPUT_DIR$)(.*=)?[A-Z_]{3,}|\.\.\.")  # one key of the config has no dot
QUANTIZED = f"train_net.py --config-file {CONFIG} MODEL.DEVICE cpu QUANT.WEIGHT.PER_CHANNEL True OUTPUT_DIR x"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def tell(runs, arm, **told):
    """Change what a run has told of itself."""
    path = runs / arm / "inference" / DATA / "provenance.json"
    write_json(path, json.loads(path.read_text()) | told)


def keep(folder, *names):
    """Files of a finished run: of a checkpoint the name does."""
    for name in names:
        (folder / name).write_text("SEED: 1\n" if name.endswith(".yaml") else "")


def commands(page):
    """Of a page: words by program, placeholders among them."""
    blocks = re.findall(r'<div class="missing">.*?<pre>(.*?)</pre>', page.read_text(), re.DOTALL)
    for block in blocks:
        python, program, *words = shlex.split(html.unescape(block))
        assert python == "python"
        yield program, words


def check(program, words, monkeypatch):
    """Parsed by the program itself, every key known to the config."""
    args = parse([program, *words], monkeypatch)
    assert (REPOSITORY / program).is_file()
    if config := getattr(args, "config_file", None):
        read_config(config, args.opts)
    return args


@pytest.fixture
def told(runs):
    """All arms were quantized or evaluated by commands; two of them have lost a file."""
    weights = runs / "full_precision" / "model_final.pth"
    keep(runs / "full_precision", "model_final.pth", "config.yaml")
    keep(runs / "uniform", "model_quantized.pth", "model_quantized.yaml")
    trained = "train_net.py --config-file configs/street/detr_small.yaml"
    tell(runs, "full_precision", command=trained, started_from="")
    tell(runs, "uniform", command=QUANTIZED, started_from=str(weights))
    tell(runs, "fisher_critical", command=QUANTIZED, started_from=str(weights))
    (runs / "uniform" / "inference" / DATA / "coco_instances_results.json").unlink()
    (runs / "full_precision" / "inference" / DATA / "provenance.json").unlink()
    return runs


def test_every_command_is_taken_as_it_stands(told, tmp_path, monkeypatch):
    build_report(ReportRequest([str(told)]), tmp_path / "report.html")
    found = dict(commands(tmp_path / "report.html"))
    programs = {"measure_traces", "measure_landscape", "allocate", "train_net"}
    assert set(found) == {f"tools/{name}.py" for name in programs}
    for program, words in commands(tmp_path / "report.html"):
        assert not [word for word in words if PLACEHOLDER.fullmatch(word)]
        args = check(program, words, monkeypatch)
        assert args.config_file == CONFIG or args.eval_only


def test_a_command_with_a_placeholder_or_an_unknown_option_is_noticed(monkeypatch):
    words = ("CONFIG", "full=CHECKPOINT", "RUN_FOLDER", "...")
    assert all(map(PLACEHOLDER.fullmatch, words)) and not PLACEHOLDER.fullmatch("MODEL.WEIGHTS")
    with pytest.raises(SystemExit):
        parse(["tools/measure_traces.py", "--config-file", CONFIG, "--out"], monkeypatch)
    with pytest.raises(ValueError, match="unknown key MODEL.UNKNOWN"):
        check("tools/train_net.py", ["--config-file", CONFIG, "MODEL.UNKNOWN", "1"], monkeypatch)


def test_a_landscape_is_of_the_arms_whose_models_were_kept(told):
    words = shlex.split(Commands(find_arms([str(told)]), str(told)).landscape())
    models = [words[i + 1] for i, word in enumerate(words) if word == "--model"]
    assert models == [f"{name}={told / name}" for name in ("full_precision", "uniform")]
    assert words[-2:] == ["MODEL.DEVICE", "cpu"]


def test_traces_and_plans_are_of_the_model_in_full_precision(told):
    made = Commands(find_arms([str(told)]), str(told))
    weights = told / "full_precision" / "model_final.pth"
    for command in (made.traces(), made.pareto()):
        assert command.endswith(f"MODEL.DEVICE cpu MODEL.WEIGHTS {weights}")
    # Without an arm in full precision: what a quantization was told to start with, and no evaluation.
    tell(told, "uniform", command=f"train_net.py --config-file {CONFIG} MODEL.WEIGHTS a.pth")
    quantized = find_arms([str(told / "uniform")])
    assert Commands(quantized, "runs").traces().endswith("--output runs/traces.json MODEL.WEIGHTS a.pth")
    tell(told, "uniform", command=f"train_net.py --eval-only --config-file {CONFIG} MODEL.WEIGHTS a.pth")
    quantized = find_arms([str(told / "uniform")])
    assert Commands(quantized, "runs").traces().endswith("--output runs/traces.json")


def test_an_evaluation_goes_into_the_folder_of_the_first(told, monkeypatch):
    full, uniform, critical = find_arms([str(told)])
    made = Commands([full, uniform, critical], str(told))
    run = told / "uniform"
    args = check("tools/train_net.py", shlex.split(made.evaluation(uniform))[2:], monkeypatch)
    assert args.config_file == str(run / "model_quantized.yaml") and args.eval_only
    assert args.opts == ["MODEL.WEIGHTS", str(run / "model_quantized.pth"), "OUTPUT_DIR", str(run)]
    options = "MODEL.DEVICE cpu QUANT.WEIGHT.PER_CHANNEL True MODEL.WEIGHTS CHECKPOINT"
    assert f"--config-file {CONFIG} {options} OUTPUT_DIR {told}/fisher_critical" in made.evaluation(critical)


def test_a_single_arm_is_quantized_beside_it(runs, tmp_path, monkeypatch):
    tell(runs, "full_precision", command=f"train_net.py --eval-only --config-file {CONFIG}")
    folder = runs / "full_precision"
    build_report(ReportRequest([f"full={folder}"], num_samples=0), tmp_path / "report.html")
    words = dict(commands(tmp_path / "report.html"))["tools/train_net.py"]
    args = check("tools/train_net.py", words, monkeypatch)
    assert args.opts[-1] == f"{folder}_fisher_critical" and not args.eval_only


def test_only_the_places_of_moved_images_are_left_to_say(runs, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "data")
    page = tmp_path / "my report.html"
    build_report(ReportRequest([f"full={runs / 'full_precision'}", str(runs / "uniform")]), page)
    words = dict(commands(page))["tools/report.py"]
    args = check("tools/report.py", words, monkeypatch)
    assert args.output == str(page) and args.runs[0] == f"full={runs / 'full_precision'}"
    assert [word for word in words if PLACEHOLDER.fullmatch(word)] == ["FOLDER", "FILE"]


def test_placeholders_stand_where_no_file_tells(runs):
    for path in runs.rglob("provenance.json"):
        path.unlink()
    arms = find_arms([str(runs)])
    made = Commands(arms, str(runs))
    assert "--config-file CONFIG " in made.traces() and "MODEL.WEIGHTS" not in made.traces()
    assert "--model NAME=CHECKPOINT" in made.landscape()
    assert "MODEL.WEIGHTS CHECKPOINT" in made.evaluation(arms[0])


def test_names_are_quoted_for_the_shell(tmp_path, monkeypatch):
    runs = make_runs(tmp_path / "my runs")
    (runs / "uniform").rename(runs / "lr=0.1 (a)")
    keep(runs / "lr=0.1 (a)", "model_final.pth", "config.yaml")
    tell(runs, "full_precision", command="train_net.py --config-file 'my configs/a.yaml'")
    _, program, *words = shlex.split(Commands(find_arms([str(runs)]), str(runs)).landscape())
    args = parse([program, *words], monkeypatch)
    assert args.config_file == "my configs/a.yaml" and args.output == f"{runs}/landscape.json"
    assert f"lr-0.1 (a)={runs}/lr=0.1 (a)" in args.model


@pytest.mark.parametrize(
    ("files", "told", "expected"),
    [
        (["model_final.pth", "config.yaml", "metrics.json"], {}, ("model_final.pth", "config.yaml")),
        (["model_final.pth", "metrics.json"], {}, ("model_final.pth", None)),
        (["metrics.json"], {}, None),  # a training whose checkpoint is gone; model.pth is what it began with
        (
            ["model_final.pth", "config.yaml"],
            {"command": "train_net.py --eval-only", "started_from": "zoo://a"},
            "zoo://a",
        ),
        ([], {}, "model.pth"),
    ],
)
def test_checkpoint_of_a_model_in_full_precision(runs, files, told, expected):
    run = runs / "full_precision"
    keep(run, *files)
    tell(runs, "full_precision", **told)
    (arm,) = find_arms([str(run)])
    if isinstance(expected, tuple):
        expected = Checkpoint(str(run / expected[0]), expected[1] and str(run / expected[1]))
    elif expected:
        expected = Checkpoint(expected)
    assert checkpoint_of(arm) == expected


def test_checkpoints_of_a_training_and_of_its_average(runs):
    run = runs / "uniform"
    keep(run, "model_quantized.pth", "model_quantized.yaml")
    assert checkpoint_of(find_arms([str(run)])[0]).as_model() == str(run)
    keep(run, "model_final.pth", "model_final_ema.pth", "config.yaml")
    shutil.copytree(run / "inference", run / "ema" / "inference")
    found = {arm.name: checkpoint_of(arm) for arm in find_arms([str(run)])}
    assert found["uniform"] == Checkpoint(str(run / "model_final.pth"), str(run / "config.yaml"))
    assert found["uniform"].as_model() == str(run)
    assert found["ema"].as_model() == str(run / "model_final_ema.pth")


def test_the_model_of_a_quantization_that_kept_none_is_unknown(runs):
    assert checkpoint_of(find_arms([str(runs / "uniform")])[0]) is None
