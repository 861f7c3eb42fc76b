"""Reading files of tensors without running what they contain."""

import argparse
import os
import pickle
import re
import zipfile
from typing import Any

import torch

from fisher_detr.checkpoint.paths import local_path
from fisher_detr.quantization import is_packed, load_packed


def load_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """Read a `.pth` file with `weights_only=True`, or a packed model, onto the CPU.

    Of classes that are no plain container only `argparse.Namespace` is admitted, in which official
    checkpoints keep their settings.

    Raises:
        ValueError: the file is corrupt, or holds anything but tensors and plain containers.
    """
    path = local_path(path)
    if is_packed(path):
        packed = load_packed(path)
        return {"model": packed.state} | packed.info
    try:
        _check_sums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise whatever they happen to ask for
        if isinstance(error, OSError) and error.filename:  # the file, not what is in it
            raise
        raise ValueError(
            f"cannot read checkpoint {path} ({_reason(error)}): fetch or make it again"
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(
            f"checkpoint {path} holds a {type(loaded).__name__}: expected a dictionary of tensors"
        )
    return loaded


def _check_sums(path: str) -> None:
    """Torch stores the checksums of its archives and does not look at them: flipped bits would be weights."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged: its checksum is another one")


def _reason(error: Exception) -> str:
    """One line; torch's own tells how to load the file all the same, which runs the code in it."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return f"it asks for {asked[1]}, and only tensors are admitted"
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or a damaged one"
    return (str(error).splitlines() or [type(error).__name__])[0]
