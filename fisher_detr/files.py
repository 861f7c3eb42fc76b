"""Writing files so that a reader never sees half of one, and reading none that is damaged."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_CHECKSUM = "checksum"
_BLOCK = 2**20  # bytes
_WAIT = 10.0  # seconds; workers of a process that was killed end up to five seconds after it


def write_atomically(
    path: str | os.PathLike, write: Callable[[BinaryIO], None], durable: bool = True
) -> None:
    """Write a file beside its destination and rename it into place.

    Args:
        path: destination; its folder is made when missing.
        write: called with the open binary file.
        durable: wait until the bytes are on the disk, so that a power failure cannot leave an empty file.

    Raises:
        OSError: it cannot be written, and why; what was there before is still there.
    """
    path, beside = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException as error:
        if beside:
            Path(beside).unlink(missing_ok=True)
        if refusal := _refusal(error):
            raise OSError(cannot_write(path, refusal)) from error
        raise


def cannot_write(path: str | os.PathLike, error: OSError) -> str:
    """What to say of a file or folder that the system does not let us write."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room there, or name another folder" if is_full else "name a folder that can be written"
    return f"cannot write {path} ({error.strerror or error}): {remedy}"


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike, wait: float | None = None) -> Iterator[None]:
    """Keep other processes from working in a folder; the lock ends with the process, however that ends.

    Args:
        folder: is made when missing.
        wait: seconds to wait for another one; None: what its workers take to end after it.

    Raises:
        ValueError: another process works there.
        OSError: the folder cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OSError(cannot_write(folder, error)) from error
    try:
        _lock(descriptor, folder, time.monotonic() + (_WAIT if wait is None else wait))
        yield
    finally:
        os.close(descriptor)


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
    except (ValueError, RecursionError) as error:  # nested too deep, a number of too many digits
        raise ValueError(f"{what} {path} is not valid JSON ({error}): make it again or repair it") from None


def write_sealed(path: str | os.PathLike, content: bytes, durable: bool = True) -> None:
    """Write what safetensors has serialised, atomically, with a checksum of all of it in its metadata.

    Safetensors itself has none: flipped bits would be other numbers.

    Args:
        path: as for `write_atomically`.
        content: a safetensors file.
        durable: as for `write_atomically`.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), memoryview(content)[start:]
    metadata = header.setdefault("__metadata__", {})
    metadata.pop(_CHECKSUM, None)  # of the file that the metadata came from
    metadata[_CHECKSUM] = _seal(header, zlib.crc32(data))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text, data]
    write_atomically(path, lambda file: file.writelines(parts), durable)


def check_sealed(path: str | os.PathLike) -> dict[str, str]:
    """Metadata of a file that `write_sealed` wrote, once its checksum is right.

    Raises:
        ValueError: it is no such file, or a damaged one.
    """
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > os.fstat(file.fileno()).st_size:
                raise ValueError("its header is longer than the file")
            header, checksum = json.loads(file.read(size)), 0
            while block := file.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
        metadata = header["__metadata__"]
        if metadata.pop(_CHECKSUM) != _seal(header, checksum):
            raise ValueError("its checksum is another one")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it has no checksum ({type(error).__name__})") from None
    return metadata


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(header: dict[str, Any], checksum: int) -> str:
    """Of the header, whatever the order and the spaces of its keys, and of the tensors behind it."""
    return f"{zlib.crc32(json.dumps(header, sort_keys=True).encode(), checksum):08x}"


def _refusal(error: BaseException | None) -> OSError | None:
    """What the system has answered; torch says of it only that it came to another place in the file."""
    while isinstance(error, Exception):
        if isinstance(error, OSError):
            return error
        error = error.__context__
    return None


def _lock(descriptor: int, folder: str | os.PathLike, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"another process works in {folder}: wait for its end, or name another OUTPUT_DIR"
                ) from None
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
