import numpy as np

from fisher_detr.engine.known_layers import KnownLayers

CHANGES = np.arange(6.0).reshape(1, 2, 3)


def test_layers_that_are_done_are_found_again(tmp_path):
    path = tmp_path / "measured.npz"
    known = KnownLayers(path, "a")
    assert known.read() == {}
    known.add("backbone.conv", CHANGES)
    known.add("head", 2 * CHANGES)
    found = KnownLayers(path, "a").read()
    assert list(found) == ["backbone.conv", "head"]
    np.testing.assert_array_equal(found["head"], 2 * CHANGES)
    known.remove()
    assert KnownLayers(path, "a").read() == {}


def test_other_settings_and_broken_files_are_not_taken(tmp_path, caplog):
    path = tmp_path / "measured.npz"
    KnownLayers(path, "a").add("head", CHANGES)
    assert KnownLayers(path, "b").read() == {}
    assert "is of other settings" in caplog.text
    for size in (0, 10, path.stat().st_size - 30):
        broken = tmp_path / f"broken{size}.npz"
        broken.write_bytes(path.read_bytes()[:size])
        assert KnownLayers(broken, "a").read() == {}
    assert caplog.text.count("cannot be read") == 3
