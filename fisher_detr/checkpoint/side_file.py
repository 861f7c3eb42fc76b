"""The side files of a conversion: what the names of the other side have no place for, kept to restore it."""

import dataclasses
import json
import os
from collections.abc import Mapping

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor

from fisher_detr.checkpoint.class_rows import ClassRows
from fisher_detr.files import check_sealed, write_sealed

_ROWS, _LEFT_OUT = "rows:", "left_out:"
_DROPPED, _QUERIES = "dropped rows", "queries of other groups"


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What a conversion from the official names dropped.

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


@dataclasses.dataclass(frozen=True)
class OtherGroups:
    """What a conversion to the official names dropped.

    Attributes:
        groups: of queries, the first included.
        rows: of all groups but the first, by the tensor's name here.
        official_sha256: of the official file.
    """

    groups: int
    rows: Mapping[str, Tensor]
    official_sha256: str


def write_dropped(path: str | os.PathLike, dropped: Dropped) -> None:
    """Write a side file (safetensors)."""
    tensors = {_ROWS + name: tensor for name, tensor in dropped.head_rows.items()}
    tensors |= {_LEFT_OUT + name: tensor for name, tensor in dropped.left_out.items()}
    metadata = {
        "official_rows": str(dropped.rows.raw),
        "kept": json.dumps(dropped.rows.kept),
        "prefix": dropped.prefix,
        "source_sha256": dropped.source_sha256,
    }
    _write(path, _DROPPED, tensors, metadata)


def read_dropped(path: str | os.PathLike) -> Dropped:
    """Read what `write_dropped` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such file, or a damaged one.
    """
    try:
        tensors, metadata = _read(path, _DROPPED)
        rows = ClassRows(int(metadata["official_rows"]), tuple(json.loads(metadata["kept"])))
        prefix, digest = metadata["prefix"], metadata["source_sha256"]
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError):
        raise _damaged(path, _DROPPED, ".dropped.safetensors") from None
    return Dropped(rows, _below(_ROWS, tensors), _below(_LEFT_OUT, tensors), prefix, digest)


def write_other_groups(path: str | os.PathLike, others: OtherGroups) -> None:
    """Write a side file (safetensors)."""
    metadata = {"groups": str(others.groups), "official_sha256": others.official_sha256}
    _write(path, _QUERIES, others.rows, metadata)


def read_other_groups(path: str | os.PathLike) -> OtherGroups:
    """Read what `write_other_groups` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such file, or a damaged one.
    """
    try:
        tensors, metadata = _read(path, _QUERIES)
        return OtherGroups(int(metadata["groups"]), tensors, metadata["official_sha256"])
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError):
        raise _damaged(path, _QUERIES, ".queries.safetensors") from None


def _write(
    path: str | os.PathLike, what: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(tensors, {"content": f"fisher_detr {what}"} | metadata)
    write_sealed(path, content)


def _read(path: str | os.PathLike, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"file of {what} {path} does not exist: check the path")
    metadata = check_sealed(path)
    if metadata.get("content") != f"fisher_detr {what}":
        raise ValueError(f"no {what}")
    return load_file(path), metadata


def _damaged(path: str | os.PathLike, what: str, suffix: str) -> ValueError:
    return ValueError(
        f"{path} is not a file of {what}, or a damaged one: expected the {suffix} that convert_checkpoint "
        "wrote beside its output"
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
