"""The files of a conversion: checkpoint, manifest and side files, all of them or none."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fisher_detr.checkpoint.paths import local_path
from fisher_detr.checkpoint.tensors import load_tensors
from fisher_detr.files import sha256_of, write_atomically


@dataclasses.dataclass(frozen=True)
class OutputFiles:
    """Names of what a conversion writes.

    Attributes:
        checkpoint: the `.pth` file.
    """

    checkpoint: Path

    @property
    def manifest(self) -> Path:
        """What was done."""
        return self.checkpoint.with_suffix(".manifest.json")

    @property
    def dropped(self) -> Path:
        """The side file of what the names here have no place for."""
        return self.checkpoint.with_suffix(".dropped.safetensors")

    @property
    def queries(self) -> Path:
        """The side file of what the official names have no place for."""
        return self.checkpoint.with_suffix(".queries.safetensors")

    @classmethod
    def at(cls, output: str | os.PathLike, source: str | os.PathLike, force: bool) -> "OutputFiles":
        """Names for an output that may be written.

        Raises:
            ValueError: the output is no `.pth`, or the source itself.
            FileExistsError: one of the files exists, and `force` is not set.
        """
        files = cls(Path(output))
        if files.checkpoint.suffix != ".pth":
            raise ValueError(f"output {output}: expected a name that ends in .pth")
        if files.checkpoint.exists() and files.checkpoint.samefile(local_path(source)):
            raise ValueError(f"output {output} is the file to convert: give another name")
        existing = [str(path) for path in files._all if path.exists()]
        if existing and not force:
            raise FileExistsError(
                f"{', '.join(existing)} exists: give another --output, or --force to overwrite"
            )
        return files

    @contextlib.contextmanager
    def staged(self) -> Iterator["OutputFiles"]:
        """Files to write instead, which take the place of these when all are there.

        A side file of an earlier conversion goes where there is no new one: it would restore wrong rows.
        """
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        stage = tempfile.mkdtemp(dir=self.checkpoint.parent, prefix=f".{self.checkpoint.name}.")
        try:
            staged = OutputFiles(Path(stage, self.checkpoint.name))
            yield staged
            for new, old in zip(staged._all, self._all, strict=True):
                if new.exists():
                    os.replace(new, old)
                else:
                    old.unlink(missing_ok=True)
        finally:
            shutil.rmtree(stage)

    @property
    def _all(self) -> tuple[Path, ...]:
        return self.dropped, self.queries, self.manifest, self.checkpoint


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A file by its name, digest and length in bytes."""

    file: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: str | os.PathLike) -> "FileRecord":
        """Read a file."""
        path = Path(local_path(path))
        return cls(path.name, sha256_of(path), path.stat().st_size)


def read_source(path: str | os.PathLike) -> dict[str, Any]:
    """Read the checkpoint to convert.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt, or holds anything but tensors and plain containers.
    """
    if not os.path.isfile(local_path(path)):
        raise FileNotFoundError(f"checkpoint {path} does not exist: check the path")
    return load_tensors(path)


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a `.pth` file."""
    write_atomically(path, lambda file: torch.save(content, file))


def about(path: str | os.PathLike, error: ValueError) -> ValueError:
    """The same error, with the file's name in front."""
    error.args = (f"checkpoint {path}: {error}",)
    return error
