"""The command lines that prepare data sets: what they say, what they leave alone, their exit status."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from fisher_detr.data import cityscapes, coco_panoptic
from tests.data.layouts import write_cityscapes_tree, write_coco_panoptic_tree

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.fixture(autouse=True)
def scripts_are_found(monkeypatch):
    """As they find what is beside them when they are commands."""
    monkeypatch.syspath_prepend(DATASETS)


CASES = {
    "prepare_coco_panoptic": (write_coco_panoptic_tree, [], coco_panoptic, "convert"),
    "prepare_cityscapes": (write_cityscapes_tree, ["--subset"], cityscapes, "visible_instances"),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """Name, the command on a complete tree, the library's module and its inner function."""
    write, options, library, inner = CASES[request.param]
    write(tmp_path)
    main = importlib.import_module(request.param).main
    return request.param, lambda *words: main(["--root", str(tmp_path), *options, *words]), library, inner


def files(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_prepares_and_says_so(case, tmp_path, capsys):
    name, run, *_ = case
    before = files(tmp_path)
    assert run("--check") == 1
    out = capsys.readouterr().out
    assert out.count("missing: ") == 2 and out.count("is not made yet: run " + name) == 2
    assert files(tmp_path) == before, "--check changes nothing"
    assert run() == 0
    out = capsys.readouterr().out
    assert "train, val made" in out and "missing" not in out and "_detection" in out
    assert run("--check") == 0
    assert run() == 0 and "nothing made" in capsys.readouterr().out
    assert {path: content for path, content in files(tmp_path).items() if path in before} == before


def test_one_split(case, tmp_path, capsys):
    _, run, *_ = case
    assert run("--splits", "val") == 0
    assert "val made" in capsys.readouterr().out
    assert run("--check", "--splits", "val") == 0 and run("--check") == 1


def test_missing_images_are_no_obstacle(case, tmp_path, capsys):
    """But they are told, and the check fails."""
    _, run, *_ = case
    for path in [*tmp_path.glob("coco/val2017/*"), *tmp_path.glob("cityscapes/leftImg8bit/val/*/*")][:1]:
        path.unlink()
    assert run() == 0
    assert "missing: val: 1 of" in capsys.readouterr().out
    assert run("--check") == 1


def test_wrong_root(case, tmp_path, capsys):
    name, *_ = case
    (tmp_path / "empty").mkdir()
    for words, status in (([], 1), (["--check"], 1)):
        assert importlib.import_module(name).main(["--root", str(tmp_path / "empty"), *words]) == status
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and "unpack" in line and "--root" in line
    assert printed.out.count("missing: ") == 2
    assert not list((tmp_path / "empty").iterdir())


def test_interrupt(case, tmp_path, capsys, monkeypatch):
    _, run, library, inner = case

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(library, inner, interrupted)
    assert run() == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("name", CASES)
def test_default_root(name, tmp_path, monkeypatch, capsys):
    """What the variable names, else `datasets` in the working directory."""
    write, options, *_ = CASES[name]
    write(tmp_path / "datasets")
    script = importlib.import_module(name)
    monkeypatch.chdir(tmp_path / "datasets")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert script.main(options) == 1 and "error: " in capsys.readouterr().err
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    assert script.main(options) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert script.main(options) == 0 and "nothing made" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*CASES, "make_street"])
def test_help_needs_no_torch(name):
    """In a process of its own, where torch cannot be imported."""
    code = f"""
import runpy, sys
sys.modules["torch"] = None
sys.path.insert(0, {str(DATASETS)!r})
sys.argv = ["{name}.py", "--help"]
runpy.run_path({str(DATASETS / f"{name}.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--splits" in done.stdout


@pytest.fixture
def make_street(tmp_path):
    """The command for two small pictures, into a folder."""
    main = importlib.import_module("make_street").main
    options = ["--splits", "val", "--num-val", "2", "--workers", "1"]
    return lambda folder, *words: main(["--output", str(tmp_path / folder), *options, *words])


def test_street_is_drawn_once(make_street, tmp_path, capsys):
    assert make_street("street") == 0 and "2 val images made in" in capsys.readouterr().out
    assert len(list((tmp_path / "street/images/val").iterdir())) == 2
    assert make_street("street") == 0 and "2 val images were already in" in capsys.readouterr().out


def test_street_leaves_another_folder_alone(make_street, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    before = files(tmp_path)
    assert make_street("mine") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "nothing was changed" in line
    assert files(tmp_path) == before


def test_street_interrupted(make_street, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fisher_detr.data.street.make_dataset", interrupted)
    assert make_street("street") == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n"


def test_as_a_command(tmp_path):
    """From another folder, with the variable, in a process of its own."""
    write_coco_panoptic_tree(tmp_path)
    done = subprocess.run(
        [sys.executable, DATASETS / "prepare_coco_panoptic.py"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(DATASETS.parent),
            "DETECTRON2_DATASETS": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "coco_2017_val_panoptic_detection" in done.stdout and "4/4" in done.stderr
