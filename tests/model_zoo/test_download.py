"""Fetching from a server on this machine, by http in place of https."""

import hashlib
import os

import pytest

from fisher_detr.model_zoo import download
from fisher_detr.model_zoo.download import fetch
from tests.model_zoo.server import serving

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setitem(os.environ, "no_proxy", "127.0.0.1")
    with serving() as one:
        one.files["/model.pth"] = CONTENT
        yield one


@pytest.fixture
def get(server, tmp_path):
    """Fetch the model; returns its path."""
    return lambda sha256=SHA256: fetch(
        f"{server.address}/model.pth", tmp_path / "cache" / "model.pth", sha256
    )


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_once(server, get, capsys):
    path = get()
    assert path.read_bytes() == CONTENT and leftovers(path.parent) == ["model.pth"]
    assert "model.pth: 100%" in capsys.readouterr().err
    assert get() == path and server.ranges == [None]


def test_what_was_cut_off_goes_on(server, get, tmp_path):
    server.cut = 4000
    with pytest.raises(OSError, match=r"connection ended after 4,000 of 10,240 bytes\): check the"):
        get()
    assert leftovers(tmp_path / "cache") == ["model.pth.part"]
    server.cut = None
    assert get().read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=4000-"] and leftovers(tmp_path / "cache") == ["model.pth"]


def test_a_server_without_ranges_sends_everything(server, get, tmp_path):
    part = tmp_path / "cache" / "model.pth.part"
    part.parent.mkdir()
    part.write_bytes(b"other" * 3000)  # longer than the file
    server.knows_ranges = False
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT[:100] + b"x" * 50, CONTENT + b"more"])
def test_a_damaged_part_is_fetched_again(server, get, tmp_path, left):
    part = tmp_path / "cache" / "model.pth.part"
    part.parent.mkdir()
    part.write_bytes(left)
    assert get().read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(left)}-", None]


def test_a_part_that_has_everything(server, get, tmp_path):
    """The process was killed between the last byte and the renaming."""
    part = tmp_path / "cache" / "model.pth.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert get().read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_damaged_file_in_the_cache_is_fetched_again(server, get):
    path = get()
    path.write_bytes(CONTENT[:-1])
    assert get().read_bytes() == CONTENT and len(server.ranges) == 2


def test_another_file_than_the_published_one(get, tmp_path):
    with pytest.raises(ValueError, match=rf"/model.pth has sha256 {SHA256}, {'0' * 64} was published"):
        get("0" * 64)
    assert leftovers(tmp_path / "cache") == []


def test_nothing_there(server, get):
    server.files.clear()
    with pytest.raises(OSError, match=r"cannot fetch http://\S+: the server answers 404 Not Found"):
        get()


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    with serving() as gone:
        address = gone.address
    with pytest.raises(OSError, match=r"cannot fetch http://\S+ \(.*refused\): check the network") as caught:
        fetch(f"{address}/model.pth", tmp_path / "model.pth", SHA256)
    assert "\n" not in str(caught.value)


def test_only_https(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SCHEMES", ("https",))
    for url in (f"{server.address}/model.pth", "file:///etc/hostname", "model.pth"):
        with pytest.raises(ValueError, match=r"is an address of (http|file|no kind): models are"):
            fetch(url, tmp_path / "model.pth", SHA256)
    assert server.ranges == []


def test_an_address_that_leads_to_another_kind(server, tmp_path):
    server.redirects["/moved"] = "ftp://127.0.0.1/model.pth"
    with pytest.raises(ValueError, match="ftp://127.0.0.1/model.pth is an address of ftp"):
        fetch(f"{server.address}/moved", tmp_path / "model.pth", SHA256)
    server.redirects["/moved"] = f"{server.address}/model.pth"
    assert fetch(f"{server.address}/moved", tmp_path / "model.pth", SHA256).read_bytes() == CONTENT
