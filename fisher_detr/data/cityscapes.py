"""The Cityscapes data set as detection: its files, and the annotation files made from its polygons."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fisher_detr.data.categories import cityscapes_categories
from fisher_detr.data.cityscapes_polygons import visible_instances
from fisher_detr.data.prepared import Layout, is_current, write_prepared
from fisher_detr.data.presence import describe_missing, missing_files
from fisher_detr.files import read_json, write_atomically

SPLITS = ("train", "val")
NUM_IMAGES = {"train": 2975, "val": 500}
"""Images of the official splits."""
VERSION = 1
"""Version of the annotation files; a change of a single box raises it."""

_GENERATOR = "prepare_cityscapes.py"
_REMEDY = (
    "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip below cityscapes/, "
    "or name the folder that holds cityscapes/ with --root"
)
_POLYGONS = "_gtFine_polygons.json"
_IMAGE = "_leftImg8bit.png"


def layout(root: str | os.PathLike, split: str) -> Layout:
    """The files of a split.

    Args:
        root: folder of all data sets.
        split: "train" or "val".
    """
    folder = Path(root) / "cityscapes"
    return Layout(
        split,
        source=folder / "gtFine" / split,
        images=folder / "leftImg8bit" / split,
        prepared=folder / f"annotations/gtFine_detection_{split}.json",
    )


def prepare_cityscapes(
    root: str | os.PathLike, splits: Sequence[str] = SPLITS, subset: bool = False
) -> list[str]:
    """Make the annotation files that are missing, or that were made from other polygon files.

    Cities that an interrupted run has finished are not read again.

    Args:
        root: folder of all data sets.
        splits: of which to make them.
        subset: take fewer images than the official split has.

    Returns:
        The splits that had to be made.

    Raises:
        FileNotFoundError: polygon files are missing; nothing is written then.
        ValueError: a file is no polygon file, or someone else's stands where one is to be written.
    """
    todo = []
    for file in (layout(root, split) for split in splits):
        names = polygon_files(file)
        problem = _incomplete(file, names, subset)
        if problem:
            raise FileNotFoundError(f"cityscapes {file.split}: {problem}")
        if not is_current(file.prepared, _origin(names)):
            todo.append((file, names))
    for file, names in todo:
        parts = file.prepared.parent / ".parts" / file.split
        images = list(_read_images(file, names, parts))
        write_prepared(file.prepared, _origin(names), _coco(images))
        shutil.rmtree(parts, ignore_errors=True)
    return [file.split for file, _ in todo]


def missing_of_cityscapes(
    root: str | os.PathLike, splits: Sequence[str] = SPLITS, subset: bool = False
) -> list[str]:
    """What is missing before the data set can be used, a line each; nothing is changed.

    Raises:
        ValueError: someone else's file stands where an annotation file is to be written.
    """
    missing = []
    for file in (layout(root, split) for split in splits):
        names = polygon_files(file)
        problem = _incomplete(file, names, subset)
        if problem:
            missing.append(f"{file.split}: {problem}")
            continue
        images = [_image_name(name) for name in names]
        absent = missing_files(file.images, images)
        if absent:
            what = describe_missing(absent, images, file.images)
            missing.append(f"{file.split}: {what}: unpack leftImg8bit_trainvaltest.zip below cityscapes/")
        if not is_current(file.prepared, _origin(names)):
            missing.append(f"{file.split}: {file.prepared} is not made yet: run prepare_cityscapes.py")
    return missing


def polygon_files(file: Layout) -> list[str]:
    """The polygon files of a split, "city/name", in alphabetical order; none where there is no folder."""
    return _files(file.source, _POLYGONS)


def _read_images(file: Layout, names: list[str], parts: Path) -> Iterator[dict[str, Any]]:
    """The images of a split city by city, each city noted when it is done."""
    with tqdm(total=len(names), desc=f"cityscapes {file.split}", unit="image") as bar:
        for city in sorted({name.split("/")[0] for name in names}):
            of_city = [name for name in names if name.split("/")[0] == city]
            part = parts / f"{city}.json"
            images = _noted(part, of_city)
            bar.update(len(images))
            if not images:
                images = [_read_image(file, name, bar) for name in of_city]
                text = json.dumps(_origin(of_city) | {"images": images})
                write_atomically(part, lambda out, text=text: out.write(text.encode()), durable=False)
            yield from images


def _read_image(file: Layout, name: str, bar: tqdm) -> dict[str, Any]:
    path = file.source / name
    instances = visible_instances(read_json(path, "polygon file"), path)
    bar.update()
    return {"file_name": _image_name(name)} | instances


def _noted(part: Path, names: list[str]) -> list[dict[str, Any]]:
    """The images of a city that an earlier run has finished, none where it has not."""
    try:
        content = json.loads(part.read_bytes())
        return content["images"] if content.items() >= _origin(names).items() else []
    except (OSError, ValueError, KeyError, AttributeError):
        return []


def _coco(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    images, annotations = [], []
    for number, picture in enumerate(pictures, start=1):
        images.append({"id": number} | {key: picture[key] for key in ("file_name", "height", "width")})
        for annotation in picture["annotations"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number} | annotation)
    return {"images": images, "annotations": annotations, "categories": cityscapes_categories()}


def _incomplete(file: Layout, names: list[str], subset: bool) -> str:
    """What keeps a split from being made, "" where nothing does."""
    if not names:
        return f"there is no */*{_POLYGONS} in {file.source}: {_REMEDY}"
    annotated = {_image_name(name) for name in names}
    without = [image for image in _files(file.images, _IMAGE) if image not in annotated]
    if without:
        what = f"{len(without)} images have no polygon file in {file.source} (first: {without[0]})"
        return f"{what}: {_REMEDY}"
    if len(names) != NUM_IMAGES[file.split] and not subset:
        return (
            f"{len(names)} polygon files in {file.source}, the official split has {NUM_IMAGES[file.split]}: "
            f"unpack gtFine_trainvaltest.zip again, or take what is there with --subset"
        )
    return ""


def _files(folder: Path, ending: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"*/*{ending}"))


def _image_name(polygons: str) -> str:
    return polygons.removesuffix(_POLYGONS) + _IMAGE


def _origin(names: list[str]) -> dict[str, Any]:
    """Of thousands of small files their names tell a part from all at once."""
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {"generator": _GENERATOR, "version": VERSION, "files": len(names), "names": digest}
