"""A quantized model as one file whose weights are packed: safetensors with a JSON header.

    tensors    <layer>.weight         uint8, levels packed densely (see `packed`)
               weight_scales          float32, those of all layers one after the other
               activation_scales      float32 [A], with activation_zero_points int32 [A]
               all others             by their names in the state dict; float32, or float16 where asked for
    metadata   header                 JSON below 64 KB: version, layers (width, scales, shape), activations
                                      (width), aliases, a checksum of every tensor, and `info`
               checksum               of the header

Nothing is believed before its checksum was seen, and nothing is unpickled.
"""

import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from fisher_detr.files import write_atomically
from fisher_detr.quantization.packed import pack_levels, unpack_levels
from fisher_detr.quantization.primitives import dequantize, quantize
from fisher_detr.structures import QuantSpec

PACKED_SUFFIX = ".safetensors"
HEADER_LIMIT = 64 * 1024  # bytes
_VERSION = 1
_FORMAT = "fisher_detr packed model"
_TABLE_LIMIT = 4 * 2**20  # bytes that safetensors' own table of tensors may have
_WEIGHT = ".weight_quantizer"
_SCALES, _ACTIVATION_SCALES, _ZEROS = "weight_scales", "activation_scales", "activation_zero_points"


@dataclasses.dataclass(frozen=True)
class PackedModel:
    """What a packed file holds.

    Attributes:
        state: state dict of the quantized model; its weights are what the layers multiply with.
        bits: width of every layer by name.
        info: what was stored beside the weights.
    """

    state: dict[str, Tensor]
    bits: dict[str, int]
    info: dict[str, Any]


def save_packed(
    path: str | os.PathLike,
    state: Mapping[str, Tensor],
    info: Mapping[str, Any] | None = None,
    half: bool = False,
) -> int:
    """Write a quantized model, atomically.

    Args:
        path: ending in `.safetensors`.
        state: state dict of a calibrated quantized model, on any device. A tensor under several names is
            stored once.
        info: JSON to store beside it: config, category names, allocation, metrics.
        half: store what is not quantized in float16, which rounds it.

    Returns:
        bytes of all tensors. Those of weights and their scales are what the allocation promised.

    Raises:
        ValueError: no layer is quantized, or one is not calibrated; a number does not fit into float16; the
            header would be too large.
    """
    if Path(path).suffix != PACKED_SUFFIX:
        raise ValueError(f"packed model {path}: expected a name that ends in {PACKED_SUFFIX}")
    distinct, aliases = _distinct(state)
    tensors, described = _pack(distinct, half)
    checksums = {name: _checksum(name, tensor) for name, tensor in tensors.items()}
    header = json.dumps(
        described
        | {"version": _VERSION, "aliases": aliases, "checksums": checksums, "info": dict(info or {})},
        allow_nan=False,
    )
    if len(header.encode()) > HEADER_LIMIT:
        raise ValueError(
            f"the header of packed model {path} has {len(header.encode())} bytes, at most {HEADER_LIMIT} are "
            "read again: store less beside the weights"
        )
    metadata = {"format": _FORMAT, "header": header, "checksum": _crc(header.encode())}
    content = save(tensors, metadata)
    write_atomically(path, lambda file: file.write(content))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load_packed(path: str | os.PathLike) -> PackedModel:
    """Read what `save_packed` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no packed model or a damaged one; the tensor is named where it can be.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"packed model {path} does not exist: check the path")
    try:
        tensors, header = _read(path)
        return _unpack(tensors, header)
    except (
        safetensors.SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ValueError(f"cannot read packed model {path} ({reason}): fetch or make it again") from None


def is_packed(path: str | os.PathLike) -> bool:
    """Whether a path names a packed model, by its end."""
    return str(path).endswith(PACKED_SUFFIX)


def _distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and the first name of what has others."""
    first: dict[tuple, str] = {}
    distinct, aliases = {}, {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        known = first.setdefault(key, name) if tensor.numel() else name
        if known == name:
            distinct[name] = tensor.detach().cpu()
        else:
            aliases[name] = known
    return distinct, aliases


def _pack(state: dict[str, Tensor], half: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the file, and the part of the header that describes them."""
    rest, tensors = dict(state), {}
    layers, scales = {}, []
    for layer in [name.removesuffix(f"{_WEIGHT}.bits") for name in state if name.endswith(f"{_WEIGHT}.bits")]:
        bits = int(rest.pop(f"{layer}{_WEIGHT}.bits"))
        weight, scale = rest.pop(f"{layer}.weight"), rest.pop(f"{layer}{_WEIGHT}.scale")
        if not (scale > 0).all():
            raise ValueError(f"layer {layer} is not calibrated: it has no scale to pack it by")
        levels = quantize(weight, scale, _spec(bits, len(scale)))
        tensors[f"{layer}.weight"] = pack_levels(levels, bits)
        layers[layer] = [bits, len(scale), *weight.shape]
        scales.append(scale)
    if not layers:
        raise ValueError("no layer of the model is quantized: there is nothing to pack")
    activations = _activations(rest)
    tensors[_SCALES] = torch.cat(scales)
    tensors[_ACTIVATION_SCALES] = _joined([rest.pop(f"{name}.scale") for name in activations], torch.float32)
    tensors[_ZEROS] = _joined([rest.pop(f"{name}.zero_point") for name in activations], torch.int32)
    widths = {name: int(rest.pop(f"{name}.bits")) for name in activations}
    tensors |= {name: _stored(name, tensor, half) for name, tensor in rest.items()}
    return tensors, {"layers": layers, "activations": widths}


def _activations(state: Mapping[str, Tensor]) -> list[str]:
    """Paths of the quantizers with one scale and one zero point."""
    paths = [name.removesuffix(".bits") for name in state if name.endswith("_quantizer.bits")]
    return [
        path
        for path in paths
        if all(
            f"{path}.{part}" in state and state[f"{path}.{part}"].shape == (1,)
            for part in ("scale", "zero_point")
        )
    ]


def _joined(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    if not half or tensor.dtype != torch.float32:
        return tensor.contiguous()
    rounded = tensor.half().contiguous()
    if not torch.equal(rounded.isfinite(), tensor.isfinite()):
        raise ValueError(f"{name} reaches {tensor.abs().max():g}, float16 65504: store it in float32")
    return rounded


def _read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header, after their checksums."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        table = int.from_bytes(file.read(8), "little")
    if table > min(size, _TABLE_LIMIT):
        raise ValueError(f"its table of tensors is said to have {table} bytes, the file has {size}")
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError("it is a file of something else")
        header = _header(metadata)
        expected, found = header["checksums"], set(file.keys())
        if different := sorted(found ^ expected.keys()):
            raise ValueError(f"tensor {different[0]} is {'unknown' if different[0] in found else 'missing'}")
        tensors = {}
        for name in expected:
            tensors[name] = file.get_tensor(name)
            if _checksum(name, tensors[name]) != expected[name]:
                raise ValueError(f"tensor {name} is damaged: its checksum is another one")
    return tensors, header


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata["header"].encode()
    if len(text) > HEADER_LIMIT or _crc(text) != metadata["checksum"]:
        raise ValueError("its header is damaged: its checksum is another one")
    header = json.loads(text)
    if header["version"] != _VERSION:
        raise ValueError(
            f"it has version {header['version']} of the format, this program reads {_VERSION}; another "
            "version of fisher_detr reads it"
        )
    return header


def _unpack(tensors: dict[str, Tensor], header: dict[str, Any]) -> PackedModel:
    scales = tensors.pop(_SCALES).split([count for _, count, *_ in header["layers"].values()])
    state = {}
    for (layer, (bits, count, *shape)), scale in zip(header["layers"].items(), scales, strict=True):
        weight = f"{layer}.weight"
        try:
            levels = unpack_levels(tensors.pop(weight), bits, torch.Size(shape).numel()).view(shape)
        except ValueError as error:
            raise ValueError(f"tensor {weight}: {error}") from None
        state[weight] = dequantize(levels, scale, _spec(bits, count))
        state |= _quantizer(f"{layer}{_WEIGHT}", bits, scale)
    state |= dict(_activation_state(tensors, header["activations"]))
    state |= {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    state |= {name: state[known] for name, known in header["aliases"].items()}
    return PackedModel(state, {layer: bits for layer, (bits, *_) in header["layers"].items()}, header["info"])


def _activation_state(tensors: dict[str, Tensor], widths: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    scales, zeros = tensors.pop(_ACTIVATION_SCALES).split(1), tensors.pop(_ZEROS).split(1)
    for (path, bits), scale, zero in zip(widths.items(), scales, zeros, strict=True):
        yield from _quantizer(path, bits, scale).items()
        yield f"{path}.zero_point", zero


def _quantizer(path: str, bits: int, scale: Tensor) -> dict[str, Tensor]:
    return {f"{path}.scale": scale, f"{path}.bits": torch.tensor(bits, dtype=torch.int32)}


def _spec(bits: int, num_scales: int) -> QuantSpec:
    return QuantSpec(bits, per_channel=num_scales > 1)


def _checksum(name: str, tensor: Tensor) -> str:
    """Of the bytes and of what they mean."""
    meaning = f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
    return _crc(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, zlib.crc32(meaning))


def _crc(content: Any, before: int = 0) -> str:
    return f"{zlib.crc32(content, before):08x}"
