"""Annotation files made from others: written whole, known again, never in place of a user's."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from fisher_detr.files import write_atomically

# The first bytes of such a file; what it was made from follows.
_START = '{"info":'
_HEAD_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the files of one split are.

    Attributes:
        split: its name.
        source: what the annotation file is made from: a file, or a folder.
        images: folder of the images.
        prepared: the annotation file in COCO format.
    """

    split: str
    source: Path
    images: Path
    prepared: Path


def is_current(path: str | os.PathLike, origin: dict[str, Any]) -> bool:
    """Whether an annotation file was made by this package from these sources.

    Args:
        path: of the file.
        origin: what was given to `write_prepared`, as far as it is known: the sources may be gone.

    Raises:
        ValueError: the file was made by someone else.
    """
    if not os.path.exists(path):
        return False
    found = _read_info(path)
    if not isinstance(found, dict) or found.get("generator") != origin["generator"]:
        raise ValueError(
            f"{path} was not made by {origin['generator']}, nothing was changed: move it to another place"
        )
    return found.items() >= origin.items()


def write_prepared(path: str | os.PathLike, origin: dict[str, Any], content: dict[str, Any]) -> None:
    """Write an annotation file atomically, the same bytes for the same content.

    Args:
        path: of the file.
        origin: what makes it known again: `generator`, the command that writes it, and what it depends on.
        content: in COCO format, without `info`.
    """
    text = json.dumps({"info": origin} | content, separators=(",", ":"))
    write_atomically(path, lambda file: file.write(text.encode()))


def _read_info(path: str | os.PathLike) -> Any:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES).decode(errors="ignore")
    try:
        return json.JSONDecoder().raw_decode(head, len(_START))[0] if head.startswith(_START) else None
    except ValueError:
        return None
