"""Files that a reader never sees half of."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_detr.files import (
    check_sealed,
    only_writer,
    read_json,
    remove_leftovers,
    write_atomically,
    write_json,
    write_sealed,
    write_text,
)


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


def onto_a_full_disk(monkeypatch):
    """/dev/full takes no byte, and says why, as any file of a full disk does."""

    def mkstemp(**where):
        path = Path(where["dir"], where["prefix"] + "x" + where["suffix"])
        path.touch()
        return os.open("/dev/full", os.O_WRONLY), str(path)

    monkeypatch.setattr("fisher_detr.files.tempfile.mkstemp", mkstemp)


WRITES = {
    "small": lambda file: file.write(b"x"),
    "large": lambda file: file.write(bytes(10**6)),
    "torch": lambda file: torch.save({"a": torch.zeros(10**6)}, file),
    "little of torch": lambda file: torch.save({"a": torch.zeros(3)}, file),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_full_disk(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    write_text(path, "old")
    onto_a_full_disk(monkeypatch)
    refused = rf"cannot write {path} \(No space left on device\): make room there, or name another folder"
    with pytest.raises(OSError, match=refused) as error:
        write_atomically(path, write)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    refused = r"cannot write .*file/a/b \((Not a directory|File exists)\): name a folder that can be written"
    with pytest.raises(OSError, match=refused):
        write_text(tmp_path / "file" / "a" / "b", "x")
    with (
        pytest.raises(OSError, match="cannot write .*file/a .*: name a folder"),
        only_writer(tmp_path / "file/a"),
    ):
        pass


def test_what_torch_says_of_a_full_disk(tmp_path):
    """The error of the system is behind it, and the buffer may be empty when the file is closed."""

    def write(_file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    with pytest.raises(OSError, match=r"cannot write .*file \(No space left on device\): make room there"):
        write_atomically(tmp_path / "file", write)


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path):
    def write(_file):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_atomically(tmp_path / "file", write)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 5000], ids=["nested", "digits"])
def test_json_that_python_does_not_take(tmp_path, content):
    path = tmp_path / "strange.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="plan file .*strange.json is not valid JSON"):
        read_json(path, "plan file")


def test_a_sealed_file_is_one_of_safetensors(tmp_path):
    path, tensors = tmp_path / "a.safetensors", {"a": torch.arange(5), "b": torch.zeros(2, 2)}
    write_sealed(path, safetensors.torch.save(tensors, {"content": "größer"}))
    assert check_sealed(path) == {"content": "größer"}
    found = safetensors.torch.load_file(path)
    assert all(torch.equal(found[name], x) for name, x in tensors.items())
    write_sealed(path, safetensors.torch.save({}))
    assert check_sealed(path) == {}


@pytest.mark.parametrize(
    "content", [b"", b"\x05", b"no tensors at all", (2**62).to_bytes(8, "little") + b"{}"]
)
def test_what_is_not_sealed(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        check_sealed(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="it has no checksum"):
        check_sealed(path)
