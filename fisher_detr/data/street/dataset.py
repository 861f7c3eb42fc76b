"""Writes the set to a folder: images, COCO annotations and a manifest that says what the folder is.

An image or a file of annotations is written beside its place and renamed, so it is either complete or
missing. What an interrupted run has drawn is noted in parts (the annotations of a few images each), from
which the next run goes on.
"""

import json
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from fisher_detr.files import write_atomically

from .categories import categories
from .generate import SPLITS, generate_picture
from .scene import HEIGHT, WIDTH

MANIFEST = "street.json"
VERSION = 1
"""Version of the pictures; a change of a single pixel or box raises it."""
SIZES = {"train": 2000, "val": 500, "test": 2000}
"""Default number of images."""

_GENERATOR = "fisher_detr street"
_PARTS = ".parts"
_PART = 25  # images per part: one piece of work of one process
_QUALITY = 95  # of the JPEG files, in percent

_logger = logging.getLogger(__name__)


class DatasetFolderError(ValueError):
    """A folder holds something else than what is to be written there."""


@dataclass(frozen=True)
class _Task:
    """A part of a split in folder ``root``: the images from ``start`` to ``stop`` (exclusive)."""

    root: Path
    split: str
    seed: int
    start: int
    stop: int

    @property
    def file(self) -> Path:
        """Where the finished part is noted."""
        return self.root / _PARTS / self.split / f"{self.start:06d}-{self.stop:06d}.json"


def _write(path: Path, data: bytes) -> None:
    """Writes one of thousands of files, which can all be drawn again: not worth a wait for the disk."""
    write_atomically(path, lambda file: file.write(data), durable=False)


def _encode(value: object) -> bytes:
    """JSON that has the same bytes for the same value."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def _image_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _draw_part(task: _Task) -> _Task:
    """Draws and writes the images of a part, then notes their annotations."""
    images = []
    for index in range(task.start, task.stop):
        picture = generate_picture(task.split, task.seed, index)
        data = cv2.imencode(".jpg", picture.image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
        _write(task.root / "images" / task.split / _image_name(index), data)
        images.append({"weather": picture.weather.value, "annotations": picture.annotations})
    _write(task.file, _encode(images))
    return task


def _noted(task: _Task) -> list[dict] | None:
    """Annotations of a part that is finished, None where it is not or what notes it is damaged."""
    try:
        images = json.loads(task.file.read_bytes())
    except (OSError, ValueError):
        return None
    return images if isinstance(images, list) and len(images) == task.stop - task.start else None


def _coco(split: str, seed: int, pictures: list[dict]) -> dict:
    """Puts what the parts note into one COCO dictionary; image ids are index + 1."""
    images, annotations = [], []
    for index, picture in enumerate(pictures):
        name, number = _image_name(index), index + 1
        images.append(
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, "weather": picture["weather"]}
        )
        for annotation in picture["annotations"]:
            annotations.append({**annotation, "id": len(annotations) + 1, "image_id": number})
    info = {"description": "procedural street scenes", "seed": seed, "split": split, "version": str(VERSION)}
    return {
        "info": info,
        "licenses": [],
        "categories": categories(),
        "images": images,
        "annotations": annotations,
    }


def _ignore_interrupts() -> None:
    """Leaves Ctrl-C to the main process, which stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw_parts(tasks: list[_Task], workers: int) -> Iterator[_Task]:
    """Draws parts, in several processes if asked to, and yields each when it is done."""
    if workers <= 1:
        yield from map(_draw_part, tasks)
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # threads of OpenCV do not survive a fork
    method = "fork" if "fork" in get_all_start_methods() else None
    pool = ProcessPoolExecutor(workers, get_context(method), _ignore_interrupts)
    try:
        for future in as_completed([pool.submit(_draw_part, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)


def _complete(root: Path, split: str, count: int) -> bool:
    """Whether a split is there with all its images."""
    try:
        images = json.loads((root / "annotations" / f"{split}.json").read_bytes())["images"]
        present = set(os.listdir(root / "images" / split))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return len(images) == count and present.issuperset(image["file_name"] for image in images)


def _make_split(root: Path, split: str, seed: int, count: int, workers: int) -> None:
    """Makes one split from the parts that are there already and those that are missing."""
    tasks = [_Task(root, split, seed, start, min(start + _PART, count)) for start in range(0, count, _PART)]
    missing = [task for task in tasks if _noted(task) is None]
    with tqdm(total=count, desc=f"street {split}", unit="image") as bar:
        bar.update(count - sum(task.stop - task.start for task in missing))
        for task in _draw_parts(missing, min(workers, len(missing))):
            bar.update(task.stop - task.start)
    pictures = [picture for task in tasks for picture in _noted(task) or ()]
    _write(root / "annotations" / f"{split}.json", _encode(_coco(split, seed, pictures)))
    shutil.rmtree(root / _PARTS / split)
    for leftover in (root / "images" / split).glob(".*.tmp"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)


def _read_manifest(root: Path) -> dict | None:
    """The manifest of a folder, None where there is nothing yet; an error where something else is."""
    if root.exists() and not root.is_dir():
        raise DatasetFolderError(f"{root} is a file; give the folder for the data set with --output")
    if not root.exists() or not any(root.iterdir()):
        return None
    try:
        manifest = json.loads((root / MANIFEST).read_bytes())
        if manifest["generator"] == _GENERATOR:
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DatasetFolderError(
        f"{root} is not empty and was not made by make_street.py (no valid {MANIFEST}); nothing was changed. "
        "Give another folder with --output"
    )


def _check_manifest(root: Path, manifest: dict, seed: int, sizes: dict[str, int]) -> None:
    """Raises where the folder holds a set with other settings; more images than before are no conflict."""
    conflicts = [
        f"{key} {manifest.get(key)} instead of {wanted}"
        for key, wanted in (("seed", seed), ("version", VERSION))
        if manifest.get(key) != wanted
    ]
    there = manifest.get("images", {})
    conflicts += [f"{there[s]} {s} images instead of {n}" for s, n in sizes.items() if there.get(s, 0) > n]
    if conflicts:
        raise DatasetFolderError(
            f"{root} holds a street set with {', '.join(conflicts)}; nothing was changed. "
            "Give another folder with --output, or --force to make it anew"
        )


def _clear(root: Path, splits: list[str]) -> None:
    """Removes splits of an earlier set; `_read_manifest` has made sure that it is one."""
    shutil.rmtree(root / _PARTS, ignore_errors=True)
    for split in splits:
        (root / "annotations" / f"{split}.json").unlink(missing_ok=True)
        shutil.rmtree(root / "images" / split, ignore_errors=True)


def make_dataset(
    output: str | os.PathLike,
    sizes: dict[str, int] | None = None,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
) -> list[str]:
    """Makes the set, or what is missing of it.

    The first images of a split do not depend on how many follow, so a set can be made larger later.

    Args:
        output: Folder to write; new, empty, or made by this function before.
        sizes: Number of images of each split to make; `SIZES` if None.
        seed: Seed of the set, 0 or more.
        workers: Number of processes.
        force: Make a set anew that this function has made with other settings. Other folders stay untouched.

    Returns:
        The splits that had to be made; empty if all was there.

    Raises:
        DatasetFolderError: The folder holds something else; nothing is changed then.
        ValueError: A split is unknown, or a number is out of range.
    """
    sizes = dict(SIZES) if sizes is None else dict(sizes)
    unknown = sorted(set(sizes) - set(SPLITS))
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}; expected some of {', '.join(SPLITS)}")
    if seed < 0 or workers < 1 or any(count < 1 for count in sizes.values()):
        raise ValueError(
            f"seed {seed}, workers {workers}, images {sizes}: expected seed >= 0, the others >= 1"
        )
    root = Path(output)
    manifest = _read_manifest(root)
    if manifest is not None and force:
        _clear(root, list(SPLITS))
        manifest = None
    if manifest is not None:
        _check_manifest(root, manifest, seed, sizes)
    counts = {**(manifest or {}).get("images", {}), **sizes}
    _write(
        root / MANIFEST,
        _encode({"generator": _GENERATOR, "images": counts, "seed": seed, "version": VERSION}),
    )
    missing = [split for split, count in sizes.items() if not _complete(root, split, count)]
    for split in missing:
        _make_split(root, split, seed, sizes[split], workers)
    shutil.rmtree(root / _PARTS, ignore_errors=True)
    _logger.info("street in %s: made %s", root, ", ".join(missing) or "nothing, all was there")
    return missing
