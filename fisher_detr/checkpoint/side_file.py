"""The side file of a conversion: what the names here have no place for, kept to restore it."""

import dataclasses
import json
import os
from collections.abc import Mapping

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor

from fisher_detr.checkpoint.class_rows import ClassRows
from fisher_detr.files import write_atomically

_ROWS, _LEFT_OUT = "rows:", "left_out:"


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What a conversion dropped.

    Attributes:
        rows: which rows of the class heads were kept.
        head_rows: the other ones, ascending, by the heads' names here.
        left_out: tensors of a mask head, by their official names.
        prefix: before the official names of the detector.
        source_sha256: of the official file.
    """

    rows: ClassRows
    head_rows: Mapping[str, Tensor]
    left_out: Mapping[str, Tensor]
    prefix: str
    source_sha256: str

    def __bool__(self) -> bool:
        return bool(self.head_rows or self.left_out)


def write_dropped(path: str | os.PathLike, dropped: Dropped) -> None:
    """Write a side file (safetensors)."""
    tensors = {_ROWS + name: tensor for name, tensor in dropped.head_rows.items()}
    tensors |= {_LEFT_OUT + name: tensor for name, tensor in dropped.left_out.items()}
    metadata = {
        "content": "fisher_detr dropped rows",
        "official_rows": str(dropped.rows.raw),
        "kept": json.dumps(dropped.rows.kept),
        "prefix": dropped.prefix,
        "source_sha256": dropped.source_sha256,
    }
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    write_atomically(path, lambda file: file.write(content))


def read_dropped(path: str | os.PathLike) -> Dropped:
    """Read what `write_dropped` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such file, or a damaged one.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"file of dropped rows {path} does not exist: check the path")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        rows = ClassRows(int(metadata["official_rows"]), tuple(json.loads(metadata["kept"])))
        prefix, digest = metadata["prefix"], metadata["source_sha256"]
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError):
        raise ValueError(
            f"{path} is not a file of dropped rows, or a damaged one: expected the .dropped.safetensors that "
            "convert_checkpoint wrote beside its output"
        ) from None
    return Dropped(rows, _below(_ROWS, tensors), _below(_LEFT_OUT, tensors), prefix, digest)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
