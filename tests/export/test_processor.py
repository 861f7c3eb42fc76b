"""What is read from the system's list of instruction sets."""

import platform

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from fisher_detr.export import processor, processor_flags, saturates  # noqa: E402

LISTED = "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu avx2 {}\nbugs\t\t: y\nflags\t\t: other\n"


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "avx512f", True),
        ("AMD64", "avx512_vnni", False),
        ("x86_64", "avx_vnni", False),
        ("aarch64", "", False),
    ],
)
def test_saturation(monkeypatch, tmp_path, machine, flags, expected):
    listed = tmp_path / "cpuinfo"
    listed.write_text(LISTED.format(flags))
    monkeypatch.setattr(processor, "_LISTED", listed)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert processor_flags() == {"fpu", "avx2", *flags.split()}
    assert saturates() is expected


def test_a_system_that_lists_nothing_may_saturate(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "_LISTED", tmp_path / "absent")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert processor_flags() == frozenset()
    assert saturates()
