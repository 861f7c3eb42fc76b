"""The command lines that prepare data sets: what they say, what they leave alone, their exit status."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from fisher_detr.data import cityscapes, coco_panoptic
from tests.data.layouts import write_cityscapes_tree, write_coco_panoptic_tree

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


def load(name):
    spec = importlib.util.spec_from_file_location(name, DATASETS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = {
    "prepare_coco_panoptic": (write_coco_panoptic_tree, [], coco_panoptic, "convert"),
    "prepare_cityscapes": (write_cityscapes_tree, ["--subset"], cityscapes, "visible_instances"),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """Name, the command on a complete tree, the library's module and its inner function."""
    write, options, library, inner = CASES[request.param]
    write(tmp_path)
    main = load(request.param).main
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
        assert load(name).main(["--root", str(tmp_path / "empty"), *words]) == status
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
def test_default_root(name, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    assert load(name).parse_args([]).root == Path("/data")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert load(name).parse_args([]).root == Path("datasets")


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
