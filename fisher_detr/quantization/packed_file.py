"""A quantized model as one file whose weights are packed: safetensors with a JSON header.

The tensors are those of `packed_state`. The metadata have `format`, `header` and the header's `checksum`; the
header is JSON below 64 KB: `version`, `layers`, `activations` and `aliases` of the state, `checksums` of all
tensors, and `info` of the caller. Nothing is believed before its checksum was seen, and nothing is unpickled.
"""

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from fisher_detr.files import write_atomically
from fisher_detr.quantization.packed_state import PackedState, pack_state, unpack_state

PACKED_SUFFIX = ".safetensors"
HEADER_LIMIT = 64 * 1024  # bytes
_FORMAT, _VERSION = "fisher_detr packed model", 1
_TABLE_LIMIT = 4 * 2**20  # bytes that safetensors' own table of tensors may have
_DAMAGED = (safetensors.SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


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
        ValueError: see `pack_state`; or the header would be too large.
    """
    if not is_packed(path):
        raise ValueError(f"packed model {path}: expected a name that ends in {PACKED_SUFFIX}")
    packed = pack_state(state, half)
    header = _header(packed, dict(info or {}))
    if len(header) > HEADER_LIMIT:
        raise ValueError(
            f"the header of packed model {path} has {len(header)} bytes, at most {HEADER_LIMIT} are read "
            "again: store less beside the weights"
        )
    content = save(packed.tensors, {"format": _FORMAT, "header": header.decode(), "checksum": _crc(header)})
    write_atomically(path, lambda file: file.write(content))
    return sum(tensor.nbytes for tensor in packed.tensors.values())


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
        packed = PackedState(tensors, *(header[key] for key in ("layers", "activations", "aliases")))
        state = unpack_state(packed)
        return PackedModel(state, {name: bits for name, (bits, *_) in packed.layers.items()}, header["info"])
    except _DAMAGED as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ValueError(f"cannot read packed model {path} ({reason}): fetch or make it again") from None


def is_packed(path: str | os.PathLike) -> bool:
    """Whether a path names a packed model, by its end."""
    return Path(path).suffix == PACKED_SUFFIX


def _header(packed: PackedState, info: dict[str, Any]) -> bytes:
    content = {
        "version": _VERSION,
        "layers": packed.layers,
        "activations": packed.activations,
        "aliases": packed.aliases,
        "checksums": {name: _checksum(name, tensor) for name, tensor in packed.tensors.items()},
        "info": info,
    }
    return json.dumps(content, allow_nan=False).encode()


def _read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header, after their checksums."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        table = int.from_bytes(file.read(8), "little")
    if table > min(size, _TABLE_LIMIT):
        raise ValueError(f"its table of tensors is said to have {table} bytes, the file has {size}")
    with safetensors.safe_open(path, "pt") as file:
        header = _checked_header(file.metadata() or {})
        expected, found = header["checksums"], set(file.keys())
        if different := sorted(found ^ expected.keys()):
            raise ValueError(f"tensor {different[0]} is {'unknown' if different[0] in found else 'missing'}")
        tensors = {name: file.get_tensor(name) for name in expected}
    for name, tensor in tensors.items():
        if _checksum(name, tensor) != expected[name]:
            raise ValueError(f"tensor {name} is damaged: its checksum is another one")
    return tensors, header


def _checked_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("format") != _FORMAT:
        raise ValueError("it is a file of something else")
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


def _checksum(name: str, tensor: Tensor) -> str:
    """Of the bytes and of what they mean."""
    meaning = f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
    return _crc(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, zlib.crc32(meaning))


def _crc(content: Any, before: int = 0) -> str:
    return f"{zlib.crc32(content, before):08x}"
