"""Paths as a user writes them."""

import os

from detectron2.utils.file_io import PathManager


def local_path(path: str | os.PathLike) -> str:
    """Where the file of a path is on this machine.

    Args:
        path: of a file, or an address that Detectron2's path manager fetches (`zoo://`, `https://`, ...). An
            empty one stays empty.

    Raises:
        ValueError: the model zoo has no such entry, or what was fetched is not what was published.
        OSError: the file cannot be fetched.
    """
    return PathManager.get_local_path(os.fspath(path)) if path else ""
