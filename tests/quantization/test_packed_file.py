"""Packed models on disk: the same outputs, the promised bytes, and nothing believed that is damaged."""

import json
import random
import re
import tracemalloc

import pytest
import safetensors
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fisher_detr.quantization import (
    calibrate_activations,
    layer_infos,
    learn_scales,
    load_packed,
    quantizable_layers,
    quantize_model,
    save_packed,
)
from fisher_detr.quantization.packed_file import HEADER_LIMIT, _crc
from fisher_detr.quantization.scale_training import ScaleTraining
from fisher_detr.structures import BitAllocation
from tests.quantization.models import images, toy_detector

SKIP = ["class_embed"]


def mixed():
    """A width for every layer, all from 2 to 8 among them."""
    names = list(quantizable_layers(toy_detector(), SKIP))
    return BitAllocation({name: 2 + i % 7 for i, name in enumerate(names)}, 0, 0)


def quantized(allocation=None, seed=0, **kwargs):
    model = toy_detector(seed)
    quantize_model(model, allocation or mixed(), skip=SKIP, **kwargs)
    calibrate_activations(model, [images()])
    return model


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "model.safetensors"
    save_packed(path, quantized().state_dict(), {"categories": ["person"]})
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_channel": False},
        {"attention_products": True},
        {"per_channel": False, "attention_products": True},
        {"activation_bits": 0},
    ],
    ids=lambda options: ", ".join(map(str, options)),
)
def test_outputs_are_those_of_the_model_to_the_bit(tmp_path, options):
    model, path = quantized(**options), tmp_path / "model.safetensors"
    save_packed(path, model.state_dict())
    other = toy_detector(seed=5)
    quantize_model(other, mixed(), skip=SKIP, **options)
    other.load_state_dict(load_packed(path).state)
    assert torch.equal(other(images(seed=3)), model(images(seed=3)))


def test_outputs_after_training_are_those_of_the_model(tmp_path):
    model, path = quantized(), tmp_path / "model.safetensors"
    learn_scales(model, ScaleTraining.LSQ, ScaleTraining.LSQ)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(3):
        model(images()).square().mean().backward()
        optimizer.step()
    save_packed(path, model.state_dict())
    other = quantized(seed=5)
    other.load_state_dict(load_packed(path).state)
    assert torch.equal(other(images(seed=3)), model(images(seed=3)))


def test_bytes_are_those_of_the_plan(packed):
    model, allocation = quantized(), mixed()
    promised = sum(layer.size_bytes(allocation.bits[layer.name]) for layer in layer_infos(model, SKIP))
    with safetensors.safe_open(packed, "pt") as file:
        weights = [f"{layer.name}.weight" for layer in layer_infos(model, SKIP)] + ["weight_scales"]
        found = sum(file.get_tensor(name).nbytes for name in weights)
    assert found == promised


def test_header_says_what_is_in_the_file(packed):
    found = load_packed(packed)
    assert found.bits == mixed().bits and found.info == {"categories": ["person"]}
    state = quantized().state_dict()
    assert found.state.keys() == state.keys()
    assert {k: (v.dtype, v.shape) for k, v in found.state.items()} == {
        k: (v.dtype, v.shape) for k, v in state.items()
    }


def test_a_tensor_with_two_names_is_stored_once(packed):
    found = load_packed(packed).state
    assert found["class_embed.weight"] is found["decoder.class_embed.weight"]
    with safetensors.safe_open(packed, "pt") as file:
        assert len({"class_embed.weight", "decoder.class_embed.weight"} & set(file.keys())) == 1


def test_half_precision_is_for_what_is_not_quantized(tmp_path):
    state = quantized().state_dict()
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    assert save_packed(half, state, half=True) < save_packed(full, state)
    found, exact = load_packed(half).state, load_packed(full).state
    assert torch.equal(found["query_embed.weight"], state["query_embed.weight"].half().float())
    weights = [name for name in exact if name.endswith("_quantizer.scale")] + ["attention.q_proj.weight"]
    assert all(torch.equal(found[name], exact[name]) for name in weights)
    state["query_embed.weight"][0, 0] = 1e5
    with pytest.raises(ValueError, match=r"query_embed.weight reaches 100000, float16 65504: store it in fl"):
        save_packed(half, state, half=True)


def test_what_cannot_be_packed_is_refused(tmp_path):
    path, state = tmp_path / "model.safetensors", quantized().state_dict()
    with pytest.raises(ValueError, match=r"no layer of the model is quantized"):
        save_packed(path, toy_detector().state_dict())
    with pytest.raises(ValueError, match=r"expected a name that ends in .safetensors"):
        save_packed(tmp_path / "model.pth", state)
    with pytest.raises(ValueError, match=rf"header of packed model .* at most {HEADER_LIMIT} are read again"):
        save_packed(path, state, {"config": "x" * HEADER_LIMIT})
    state["attention.q_proj.weight_quantizer.scale"].zero_()
    with pytest.raises(ValueError, match=r"layer attention.q_proj: the weight quantizer is not calibrated"):
        save_packed(path, state)
    assert not list(tmp_path.iterdir())


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"packed model .* does not exist: check the path"):
        load_packed(path)
    for content in (b"", b"\x05", b"no tensors at all", (2**62).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot read packed model .*: fetch or make it again"):
            load_packed(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"it is a file of something else"):
        load_packed(path)


def rewritten(path, change):
    """The file with another header, whose checksum is right: what an attacker would write."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["header"])
    change(header)
    text = json.dumps(header)
    safetensors.torch.save_file(tensors, path, metadata | {"header": text, "checksum": _crc(text.encode())})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h: h.update(version=2), "it has version 2 of the format, this program reads 1"),
        (
            lambda h: h["layers"].update({"attention.q_proj": [4, 16, 2**40, 2**20]}),
            r"tensor attention.q_proj.weight: \d+ packed bytes: \d+ levels of 4 bits",
        ),
        (lambda h: h["layers"].update({"attention.q_proj": [99, 16, 16, 16]}), "99"),
        (lambda h: h["layers"].pop("attention.q_proj"), "cannot read packed model"),
        (lambda h: h["checksums"].pop("weight_scales"), "tensor weight_scales is unknown"),
        (lambda h: h["checksums"].update(more="00000000"), "tensor more is missing"),
        (lambda h: h.pop("activations"), "it lacks 'activations'"),
        (lambda h: h["aliases"].update(a="b"), "it lacks 'b'"),
    ],
)
def test_headers_that_lie_are_refused(packed, change, message):
    rewritten(packed, change)
    with pytest.raises(ValueError, match=message):
        load_packed(packed)


def flipped(content, at, generator):
    return content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :]


def cut(content, at, generator):
    return content[:at]


def inverted(content, at, generator):
    length = generator.randrange(1, 64)
    return content[:at] + bytes(255 - b for b in content[at : at + length]) + content[at + length :]


def put_in_between(content, at, generator):
    return content[:at] + generator.randbytes(generator.randrange(1, 9)) + content[at:]


def another_table(content, change):
    """The file with another table of its tensors, as the safetensors format has it at the beginning."""
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    change(table)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def huge_shape(content, at, generator):
    def change(table):
        name = generator.choice(sorted(table.keys() - {"__metadata__"}))
        table[name]["shape"] = [2 ** generator.randrange(20, 62) for _ in range(generator.randrange(1, 4))]

    return another_table(content, change)


def huge_extent(content, at, generator):
    def change(table):
        name = generator.choice(sorted(table.keys() - {"__metadata__"}))
        table[name]["data_offsets"][1] += 2 ** generator.randrange(4, 60)

    return another_table(content, change)


def header_of_another(content, at, generator):
    """Names, widths and shapes of other tensors, under the checksum of the right ones."""

    def change(table):
        header = json.loads(table["__metadata__"]["header"])
        first, second = generator.sample(sorted(header["layers"]), 2)
        header["layers"][first] = [*header["layers"][second][:2], 2 ** generator.randrange(20, 62)]
        table["__metadata__"]["header"] = json.dumps(header)

    return another_table(content, change)


DAMAGES = [flipped, cut, inverted, put_in_between, huge_shape, huge_extent, header_of_another]


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.nbytes)
        return result


def memory_of_loading(path):
    """Bytes that Python had at most, and of the largest tensor; and what was raised, or None."""
    error = None
    tracemalloc.start()
    with Largest() as largest:
        try:
            load_packed(path)
        except ValueError as raised:
            error = str(raised)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak + largest.bytes, error


def test_two_hundred_damaged_files_are_refused(packed):
    """Each in one line, and none asks for memory that the file does not have."""
    content, generator = packed.read_bytes(), random.Random(0)
    memory, error = memory_of_loading(packed)
    assert memory > len(content) / 2 and error is None  # it sees what is made
    for number in range(200):
        damage = DAMAGES[number % len(DAMAGES)]
        packed.write_bytes(damage(content, generator.randrange(len(content)), generator))
        memory, error = memory_of_loading(packed)
        assert re.fullmatch(r"cannot read packed model .*: fetch or make it again", error), damage
        assert memory < 10 * len(content)


def test_the_damaged_tensor_is_named(packed):
    """Wherever its bytes are damaged."""
    whole, generator = packed.read_bytes(), random.Random(0)
    first = 8 + int.from_bytes(whole[:8], "little")
    for at in (first, len(whole) - 1, *(generator.randrange(first, len(whole)) for _ in range(20))):
        packed.write_bytes(flipped(whole, at, generator))
        with pytest.raises(ValueError, match=r"tensor \S+ is damaged: its checksum is another one"):
            load_packed(packed)
