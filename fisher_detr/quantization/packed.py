"""Integer weights packed densely at their own width: the bytes that a bit allocation promises.

Level i of b bits takes the bits `[i b, (i + 1) b)` of the array, counted from the lowest bit of byte 0, in
two's complement. For 2, 4 and 8 bits that is the layout of ONNX' INT2, INT4 and INT8 tensors.
"""

import dataclasses

import torch
from torch import Tensor, nn

from fisher_detr.quantization.primitives import dequantize, quantize
from fisher_detr.quantization.selection import quantized_layers
from fisher_detr.structures import SCALE_BYTES, QuantSpec

_GROUP = 8  # b bytes hold exactly 8 levels of b bits


@dataclasses.dataclass(frozen=True)
class PackedWeight:
    """A quantized weight as it is shipped.

    Attributes:
        levels: uint8, dense.
        scale: float32, `[C]` or `[1]`.
        shape: of the weight.
        spec: width and granularity.
    """

    levels: Tensor
    scale: Tensor
    shape: tuple[int, ...]
    spec: QuantSpec

    @property
    def size_bytes(self) -> int:
        """Bytes of levels and scales, measured; equals `LayerInfo.size_bytes`."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.levels, self.scale))

    def dequantize(self) -> Tensor:
        """The weight that the layer multiplies with: bit for bit what its weight quantizer gives."""
        levels = unpack_levels(self.levels, self.spec.bits, int(torch.Size(self.shape).numel()))
        return dequantize(levels.view(self.shape), self.scale, self.spec)


def packed_bytes(numel: int, num_scales: int, bits: int) -> int:
    """Bytes of a packed weight with its scales; the same number as `LayerInfo.size_bytes`."""
    return _num_bytes(numel, bits) + SCALE_BYTES * num_scales


def pack_weights(model: nn.Module) -> dict[str, PackedWeight]:
    """Pack the weights of all quantized layers of a calibrated model, by layer name."""
    layers = quantized_layers(model)
    return {
        name: pack_weight(layer.weight, layer.weight_quantizer.scale, layer.weight_quantizer.spec)
        for name, layer in layers.items()
    }


@torch.no_grad()
def pack_weight(weight: Tensor, scale: Tensor, spec: QuantSpec) -> PackedWeight:
    """Pack a weight.

    Raises:
        ValueError: a scale is not positive: the quantizer is not calibrated.
    """
    if not (scale > 0).all():
        raise ValueError("the weight quantizer is not calibrated: there is no scale to pack the weight by")
    levels = pack_levels(quantize(weight, scale, spec), spec.bits)
    return PackedWeight(levels, scale.detach().clone(), tuple(weight.shape), spec)


def pack_levels(levels: Tensor, bits: int) -> Tensor:
    """Pack signed integers densely.

    Args:
        levels: integers in `[-2^(b-1), 2^(b-1) - 1]`, any shape.
        bits: width b, 2 to 8.

    Returns:
        Tensor: uint8 `[ceil(numel * b / 8)]`.
    """
    flat = levels.flatten().long()
    if flat.numel() and (flat.min() < -(2 ** (bits - 1)) or flat.max() >= 2 ** (bits - 1)):
        raise ValueError(f"levels {int(flat.min())} to {int(flat.max())} do not fit into {bits} bits")
    groups = torch.nn.functional.pad(flat, (0, -flat.numel() % _GROUP)).view(-1, _GROUP) & (2**bits - 1)
    # Each group of 8 levels becomes one little-endian 64-bit word, whose first b bytes are kept.
    words = (groups << _shifts(bits, levels.device)).sum(dim=1)
    packed = torch.stack([(words >> 8 * i) & 255 for i in range(bits)], dim=1)
    return packed.to(torch.uint8).flatten()[: _num_bytes(flat.numel(), bits)]


def unpack_levels(packed: Tensor, bits: int, numel: int) -> Tensor:
    """Undo `pack_levels`.

    Args:
        packed: uint8 `[ceil(numel * b / 8)]`.
        bits: width b, 2 to 8.
        numel: number of levels.

    Returns:
        Tensor: int8 `[numel]`.

    Raises:
        ValueError: the array has another size.
    """
    if packed.numel() != _num_bytes(numel, bits):
        raise ValueError(
            f"{packed.numel()} packed bytes: {numel} levels of {bits} bits take {_num_bytes(numel, bits)}"
        )
    groups = torch.nn.functional.pad(packed, (0, -packed.numel() % bits)).view(-1, bits).long()
    words = (groups << torch.arange(0, 8 * bits, 8, device=packed.device)).sum(dim=1)
    levels = (words[:, None] >> _shifts(bits, packed.device)) & (2**bits - 1)  # [groups, 8]
    levels = levels.flatten()[:numel]
    return torch.where(levels >= 2 ** (bits - 1), levels - 2**bits, levels).to(torch.int8)


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, _GROUP * bits, bits, device=device)


def _num_bytes(numel: int, bits: int) -> int:
    return -(-numel * bits // 8)
