"""Files that a reader never sees half of."""

import json
import os
import stat
from pathlib import Path

import pytest

from fisher_detr.files import read_json, remove_leftovers, write_atomically, write_json, write_text


def test_writes_into_folders_that_are_not_there_yet(tmp_path):
    path = tmp_path / "a" / "b" / "text"
    write_text(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert os.listdir(path.parent) == ["text"]


def test_the_destination_is_old_or_new_and_never_between(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def write(file):
        file.write(b"n")
        file.flush()
        assert path.read_text() == "old"
        file.write(b"ew")

    write_atomically(path, write)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    write_text(path, "old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_rename_leaves_nothing(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError):
        write_text(folder, "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    """A temporary file would be for its owner only."""
    write_text(tmp_path / "ours", "")
    Path(tmp_path / "theirs").touch()
    ours, theirs = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs"))
    assert ours == theirs


def test_json_is_the_same_bytes_for_the_same_content(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": [0.1, None]})
    write_json(tmp_path / "b", {"a": [0.1, None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a", "file") == {"a": [0.1, None], "b": 1}


def test_json_keeps_float64(tmp_path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    write_json(tmp_path / "a", values)
    assert [v.hex() for v in read_json(tmp_path / "a", "file")] == [v.hex() for v in values]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_a_number_for_it_is_refused_and_the_old_file_stays(tmp_path, value):
    write_json(tmp_path / "a", 1)
    with pytest.raises(ValueError):
        write_json(tmp_path / "a", {"x": value})
    assert read_json(tmp_path / "a", "file") == 1


def test_missing_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="plan file .*gone.json does not exist: check the path"):
        read_json(tmp_path / "gone.json", "plan file")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_json(tmp_path, "plan file")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"[1] 2"])
def test_broken_json(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="plan file .*broken.json is not valid JSON .*: make it again"
    ) as error:
        read_json(path, "plan file")
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, json.JSONDecodeError)


def test_leftovers_of_killed_writers_are_deleted_and_nothing_else(tmp_path, monkeypatch):
    def kill(_file):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # as if the process had ended before
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "model.pth", kill)
    monkeypatch.undo()
    for name in ("model.pth", "log.part", ".hidden"):
        (tmp_path / name).touch()
    assert len(os.listdir(tmp_path)) == 4
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "log.part", "model.pth"]
    remove_leftovers(tmp_path / "not there")
