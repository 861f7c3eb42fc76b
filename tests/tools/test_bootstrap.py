import ast
import os
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path
from types import SimpleNamespace

import bootstrap
import install_detectron2
import pytest

FILES = ("requirements/build.txt", "requirements/lock.txt")


@pytest.fixture
def clone(tmp_path):
    """A folder with the files the keys are made of."""
    root = tmp_path / "clone"
    for name in (*FILES, "setup.py", "pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
def fakes(monkeypatch):
    """Replace what takes minutes; the list tells what was called."""
    calls = []

    def build(env, key, root):
        calls.append(("build", env))
        bootstrap.clear(env)
        venv.create(env, symlinks=True)
        packages = env / "lib/python{}.{}/site-packages".format(*sys.version_info)
        (packages / "heavy.py").write_text("WEIGHT = 5.5\n")
        (env / "bin/tool").write_text(
            f"#!{env}/bin/python\nimport heavy, sys\nprint(sys.prefix, heavy.WEIGHT)\n"
        )
        (env / "bin/tool").chmod(0o755)
        (env / "bin/binary").write_bytes(b"\x7fELF")
        bootstrap.write_stamp(env, key=key, path=str(env))

    monkeypatch.setattr(bootstrap, "build", build)
    monkeypatch.setattr(bootstrap, "run", lambda env, *arguments: calls.append(("package", env)))
    return calls


def test_python_versions():
    assert [bootstrap.python_problem((3, minor, 1)) for minor in (11, 12, 13)] == ["", "", ""]
    assert bootstrap.python_problem((3, 10, 4)).startswith("this is Python 3.10, expected 3.11 to 3.13: ")
    assert bootstrap.python_problem((3, 14, 0)).startswith("this is Python 3.14, expected")


def test_an_old_python_reads_as_far_as_the_line_about_it():
    """It parses the whole file and runs what stands before the check: nothing it rejects may be there."""
    tree = ast.parse(Path(bootstrap.__file__).read_text(), feature_version=(3, 6))
    checks = [isinstance(node, ast.If) and "python_problem" in ast.unparse(node.test) for node in tree.body]
    before = tree.body[: checks.index(True)]
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Expr)
    assert all(isinstance(node, kinds) for node in before)
    assert not any(node.args.args[0].annotation for node in before if isinstance(node, ast.FunctionDef))


def test_second_call_does_nothing(clone, fakes):
    bootstrap.set_up(clone, "")
    assert fakes == [("build", clone / ".venv"), ("package", clone / ".venv")]
    bootstrap.set_up(clone, "")
    assert len(fakes) == 2


@pytest.mark.parametrize("name", FILES)
def test_changed_requirements_build_anew(clone, fakes, name):
    bootstrap.set_up(clone, "")
    (clone / name).write_text("changed")
    bootstrap.set_up(clone, "")
    assert [call for call, _ in fakes] == ["build", "package"] * 2


def test_changed_port_of_detectron2_builds_anew(clone, fakes, monkeypatch):
    bootstrap.set_up(clone, "")
    monkeypatch.setattr(install_detectron2, "SUBSTITUTIONS", install_detectron2.SUBSTITUTIONS[1:])
    bootstrap.set_up(clone, "")
    assert [call for call, _ in fakes] == ["build", "package"] * 2


@pytest.mark.parametrize("name", ["setup.py", "pyproject.toml"])
def test_changed_packaging_installs_only_the_package(clone, fakes, name):
    bootstrap.set_up(clone, "")
    (clone / name).write_text("changed")
    bootstrap.set_up(clone, "")
    assert [call for call, _ in fakes] == ["build", "package", "package"]


def test_moved_clone_builds_anew(clone, fakes):
    """Commands in an environment name the Python they were made for."""
    bootstrap.set_up(clone, "")
    moved = clone.rename(clone.with_name("moved"))
    bootstrap.set_up(moved, "")
    assert fakes[-2:] == [("build", moved / ".venv"), ("package", moved / ".venv")]


@pytest.mark.parametrize("stage", ["build", "package"])
def test_interrupted_run_is_not_believed(clone, fakes, monkeypatch, stage):
    def interrupted(env, *_):
        bootstrap.clear(env) if stage == "build" else None
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "build" if stage == "build" else "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bootstrap.set_up(clone, "")
    bootstrap.set_up(clone, "")
    assert fakes[-1] == ("package", clone / ".venv")
    assert [call for call, _ in fakes].count("build") == 1


@pytest.mark.parametrize("content", ["", "{", '{"key": "x"}'])
def test_broken_stamp_is_not_believed(clone, fakes, content):
    (clone / ".venv").mkdir()
    (clone / ".venv" / bootstrap.STAMP).write_text(content)
    bootstrap.set_up(clone, "")
    assert [call for call, _ in fakes] == ["build", "package"]


def test_foreign_environment_is_left_alone(clone, fakes):
    (clone / ".venv").mkdir()
    (clone / ".venv/mine.txt").write_text("dear to me")
    with pytest.raises(bootstrap.SetupError, match=r"\.venv was not made by this script: move it away"):
        bootstrap.set_up(clone, "")
    assert (clone / ".venv/mine.txt").read_text() == "dear to me"


def test_clearing_does_not_follow_links(tmp_path):
    outside, env = tmp_path / "outside", tmp_path / "env"
    outside.mkdir()
    (outside / "kept").touch()
    env.mkdir()
    (env / bootstrap.STAMP).touch()
    (env / "lib").symlink_to(outside)
    bootstrap.clear(env)
    assert [path.name for path in env.iterdir()] == [bootstrap.STAMP]
    assert (outside / "kept").exists()
    (tmp_path / "linked").symlink_to(env)
    with pytest.raises(bootstrap.SetupError, match="was not made by this script"):
        bootstrap.clear(tmp_path / "linked")


def test_clones_share_the_heavy_part_only(clone, fakes, tmp_path):
    folder = tmp_path / "envs"
    bootstrap.set_up(clone, str(folder))
    other = tmp_path / "other"
    for name in (*FILES, "setup.py", "pyproject.toml"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text((clone / name).read_text())
    bootstrap.set_up(other, str(folder))
    shared = folder / bootstrap.environment_key(clone)
    assert fakes == [("build", shared), ("package", clone / ".venv"), ("package", other / ".venv")]
    ran = subprocess.run([other / ".venv/bin/tool"], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(other / ".venv"), "5.5"]
    assert (other / ".venv/bin/binary").resolve() == shared / "bin/binary"

    # Either kind of environment serves, whether the variable is set or not.
    bootstrap.set_up(other, "")
    assert len(fakes) == 3


def test_lost_shared_part_is_built_again(clone, fakes, tmp_path):
    folder = tmp_path / "envs"
    bootstrap.set_up(clone, str(folder))
    bootstrap.clear(folder / bootstrap.environment_key(clone))
    bootstrap.set_up(clone, str(folder))
    assert [call for call, _ in fakes] == ["build", "package"] * 2


def test_two_set_ups_take_turns(tmp_path, capsys):
    path, held, order = tmp_path / "new" / "lock", threading.Event(), []

    def first():
        with bootstrap.locked(path):
            held.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(30)
    with bootstrap.locked(path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert f"waiting for another set-up, which holds {path}" in capsys.readouterr().out


def test_too_little_disk(clone, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda place: SimpleNamespace(free=3.14e9))
    monkeypatch.setattr(bootstrap, "ROOT", clone)
    monkeypatch.delenv(bootstrap.SHARED, raising=False)
    assert bootstrap.main() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"set-up: 3.1 GB free in {clone}, expected at least 8 GB: make room")
    assert error.count("\n") == 1


def test_python_without_ensurepip(clone, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match="cannot make environments: install python3-venv"):
        bootstrap.build(clone / ".venv", "key", clone)


def test_folder_that_cannot_be_made(clone, monkeypatch, capsys):
    (clone / "file").touch()
    monkeypatch.setattr(bootstrap, "ROOT", clone)
    monkeypatch.setenv(bootstrap.SHARED, str(clone / "file" / "envs"))
    assert bootstrap.main() == 1
    assert capsys.readouterr().err.startswith("set-up: [Errno 20] Not a directory")


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "WARNING: Retrying (NewConnectionError('Failed to establish a new connection'))\n"
            "ERROR: No matching distribution found for wheel==0.48.0\n",
            r"the package index cannot be reached: connect to the network, .*for wheel==0\.48\.0\)$",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "serves other files"),
        ("ERROR: one\nERROR: two\n[notice] three\n", r"^a step failed: ERROR: two$"),
        (
            "install_detectron2: torch missing here\n",
            r"^a step failed: install_detectron2: torch missing here$",
        ),
        ("", r"^a step failed: no output$"),
    ],
)
def test_failures_are_one_line(tmp_path, monkeypatch, output, line):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    with pytest.raises(bootstrap.SetupError, match=line) as caught:
        bootstrap.run(tmp_path, "-c", f"import sys; sys.stderr.write({output!r}); sys.exit(3)")
    assert "\n" not in str(caught.value)


def test_steps_keep_the_way_to_the_index(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.invalid/simple")
    monkeypatch.setenv("PIP_CERT", "ours.pem")
    monkeypatch.setenv("PIP_CONSTRAINT", "old.txt")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    settings = bootstrap.step_settings(tmp_path)
    assert (settings["PIP_INDEX_URL"], settings["PIP_CERT"]) == ("https://mirror.invalid/simple", "ours.pem")
    assert settings["PIP_CONSTRAINT"] == os.devnull
    assert settings["TMPDIR"] == str(tmp_path)
    assert "PYTHONPATH" not in settings


def test_parts_hold_every_requirement_with_its_hashes(tmp_path):
    lock = bootstrap.ROOT / "requirements/lock.txt"
    parts = bootstrap.parts(lock)
    assert "".join(parts).split() == lock.read_text().split()
    for part in parts:
        assert not part.startswith(" ") and part.endswith("\n") and not part.rstrip().endswith("\\")
        assert part.count("==") >= 1 and "--hash=sha256:" in part


@pytest.mark.parametrize("name", FILES)
def test_lock_names_no_index_and_a_hash_for_everything(name):
    text = (bootstrap.ROOT / name).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    entries = [line for line in text.splitlines() if line[:1].isalnum()]
    assert entries and all("==" in line and line.endswith("\\") for line in entries)
