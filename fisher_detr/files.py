"""Writing files so that a reader never sees half of one."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(
    path: str | os.PathLike, write: Callable[[BinaryIO], None], durable: bool = True
) -> None:
    """Write a file beside its destination and rename it into place.

    Args:
        path: destination; its folder is made when missing.
        write: called with the open binary file.
        durable: wait until the bytes are on the disk, so that a power failure cannot leave an empty file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Delete what writers that were killed left in a folder; no other may be writing there."""
    for path in Path(folder).glob(".*.part"):
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON atomically: keys sorted, one file per state of the content, NaN refused."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Read JSON; a missing or broken file becomes one clear line.

    Args:
        path: the file.
        what: what the file is, for the error ("annotation file").

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not valid JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist: check the path")
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{what} {path} is not valid JSON ({error}): make it again or repair it") from None


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
