"""Packed files with other bytes in them: refused in one line, or the same model."""

import json
import re

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fisher_detr.quantization import load_packed, save_packed
from fisher_detr.quantization.packed_file import _crc
from tests.fuzz.strange import changed
from tests.quantization.test_packed_file import quantized

REFUSED = re.compile(r"cannot read packed model .*: fetch or make it again")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    save_packed(path, quantized().state_dict(), {"categories": ["person"]})
    return path, path.read_bytes(), load_packed(path)


def load(path):
    """The model of a file, None where it is refused."""
    try:
        return load_packed(path)
    except ValueError as error:
        assert REFUSED.fullmatch(str(error)), error
        return None


def test_other_bytes(packed):
    _, content, expected = packed

    @settings(max_examples=300)
    @given(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=4),
        st.one_of(st.just(len(content)), st.integers(0, len(content))),
    )
    def run(changes, length):
        damaged = bytearray(content)
        for place, value in changes:
            damaged[place] = value
        path = packed[0].with_name("damaged.safetensors")
        path.write_bytes(damaged[:length])
        if (found := load(path)) is not None:
            assert found.bits == expected.bits and found.info == expected.info
            assert found.state.keys() == expected.state.keys()
            assert all(torch.equal(found.state[key], value) for key, value in expected.state.items())

    run()


def test_other_headers(packed):
    """With a checksum that is right, as who means harm would write it: a model, or one line."""
    path, _, _ = packed
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()

    @settings(max_examples=150)
    @given(changed(json.loads(metadata["header"])))
    def run(header):
        text = json.dumps(header)
        other = path.with_name("other.safetensors")
        sealed = metadata | {"header": text, "checksum": _crc(text.encode())}
        safetensors.torch.save_file(tensors, other, sealed)
        load(other)

    run()
