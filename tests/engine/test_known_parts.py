import numpy as np

from fisher_detr.engine.known_parts import KnownParts

CHANGES = np.arange(6.0).reshape(1, 2, 3)


def read(path, settings):
    known = KnownParts(path, settings)
    known.read()
    return known.parts


def test_without_a_file_parts_are_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = KnownParts(None, "a")
    known.read()
    known.add("head", CHANGES)
    known.remove()
    assert list(known.parts) == ["head"]
    assert not list(tmp_path.iterdir())


def test_parts_that_are_done_are_found_again(tmp_path):
    path = tmp_path / "measured.safetensors"
    known = KnownParts(path, "a")
    known.read()
    assert known.parts == {}
    known.add("backbone.conv", CHANGES)
    known.add("head", 2 * CHANGES)
    found = read(path, "a")
    assert list(found) == ["backbone.conv", "head"]
    np.testing.assert_array_equal(found["head"], 2 * CHANGES)
    known.remove()
    assert read(path, "a") == {}


def test_other_settings_and_broken_files_are_not_taken(tmp_path, caplog):
    path = tmp_path / "measured.safetensors"
    KnownParts(path, "a").add("head", CHANGES)
    assert read(path, "b") == {}
    assert "is of other settings" in caplog.text
    for size in (0, 10, path.stat().st_size - 30):
        broken = tmp_path / f"broken{size}.safetensors"
        broken.write_bytes(path.read_bytes()[:size])
        assert read(broken, "a") == {}
    assert caplog.text.count("cannot be read") == 3
