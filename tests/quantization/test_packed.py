"""Packed integers: their layout, their bytes, and that they are the weights."""

import pytest
import torch

from fisher_detr.quantization import (
    calibrate_weights,
    layer_infos,
    pack_levels,
    pack_weights,
    packed_bytes,
    quantizable_layers,
    quantize_model,
    unpack_levels,
)
from fisher_detr.structures import LayerInfo, ScaleMethod
from tests.quantization.models import toy_detector


def naive_pack(levels, bits):
    """One big integer, written out little-endian."""
    number = sum((level % 2**bits) << (index * bits) for index, level in enumerate(levels))
    return list(number.to_bytes((len(levels) * bits + 7) // 8, "little"))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("numel", [0, 1, 7, 8, 9, 64, 203])
def test_round_trip_and_layout(bits, numel):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    levels = torch.randint(low, high, (numel,), dtype=torch.int8 if bits < 8 else torch.int16)
    packed = pack_levels(levels, bits)
    assert packed.dtype == torch.uint8 and packed.tolist() == naive_pack(levels.tolist(), bits)
    assert unpack_levels(packed, bits, numel).tolist() == levels.tolist()
    assert packed.numel() == packed_bytes(numel, 0, bits)


def test_four_bits_put_the_first_level_into_the_low_half():
    assert pack_levels(torch.tensor([1, -2]), 4).tolist() == [0xE1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_bytes_are_those_of_the_plan(bits):
    for numel, scales in ((1, 1), (13, 1), (1000, 7)):
        assert packed_bytes(numel, scales, bits) == LayerInfo("x", numel, scales).size_bytes(bits)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_packed_weights_are_what_the_layers_multiply_with(bits, per_channel):
    model = toy_detector()
    quantize_model(model, bits=bits, per_channel=per_channel, skip=["class_embed"])
    calibrate_weights(model, ScaleMethod.MSE)
    packed = pack_weights(model)
    infos = {info.name: info for info in layer_infos(model, ["class_embed"], per_channel)}
    assert list(packed) == list(infos)
    for name, layer in quantizable_layers(model, ["class_embed"]).items():
        assert packed[name].size_bytes == infos[name].size_bytes(bits)
        found, expected = packed[name].dequantize(), layer.weight_quantizer(layer.weight)
        assert torch.equal(found, expected) and torch.equal(found.signbit(), expected.signbit())


def test_bad_sizes():
    with pytest.raises(ValueError, match="do not fit into 3 bits"):
        pack_levels(torch.tensor([4]), 3)
    with pytest.raises(ValueError, match="3 packed bytes: 8 levels of 4 bits take 4"):
        unpack_levels(torch.zeros(3, dtype=torch.uint8), 4, 8)
