"""COCO Panoptic as detection: every segment, of things and of stuff, becomes the box it is given in the file.

- A crowd segment stays a crowd region, which COCO's protocol neither asks for nor counts against a detection.
- `area` is the number of the segment's pixels, for things (as in COCO's instances) and for stuff. It only
  says which of COCO's ranges small, medium and large an object is in. All stuff of a category in an image is
  one segment, often in pieces: the area of its box would make nearly everything large, its pixels say how
  much of it can be seen.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fisher_detr.data.annotations import parse_annotations
from fisher_detr.data.categories import coco_panoptic_categories
from fisher_detr.data.prepared import Layout, is_current, write_prepared
from fisher_detr.data.presence import describe_missing, missing_files, read_section
from fisher_detr.files import read_json

SPLITS = ("train", "val")
VERSION = 1
"""Version of the annotation files; a change of a single box raises it."""

_GENERATOR = "prepare_coco_panoptic.py"
_REMEDY = (
    "unpack panoptic_annotations_trainval2017.zip there, or name the folder that holds coco/ with --root"
)


def layout(root: str | os.PathLike, split: str) -> Layout:
    """The files of a split.

    Args:
        root: folder of all data sets.
        split: "train" or "val".
    """
    coco = Path(root) / "coco"
    return Layout(
        split,
        source=coco / f"annotations/panoptic_{split}2017.json",
        images=coco / f"{split}2017",
        prepared=coco / f"annotations/panoptic_detection_{split}2017.json",
    )


def prepare_coco_panoptic(root: str | os.PathLike, splits: Sequence[str] = SPLITS) -> list[str]:
    """Make the annotation files that are missing, or that were made from other sources.

    Args:
        root: folder of all data sets.
        splits: of which to make them.

    Returns:
        The splits that had to be made.

    Raises:
        FileNotFoundError: a panoptic file is missing; nothing is written then.
        ValueError: a file is no panoptic one, or someone else's stands where one is to be written.
    """
    files = [layout(root, split) for split in splits]
    todo = [file for file in files if not is_current(file.prepared, _origin(file))]
    absent = [str(file.source) for file in todo if not file.source.is_file()]
    if absent:
        raise FileNotFoundError(f"panoptic file {' and '.join(absent)} does not exist: {_REMEDY}")
    for file in todo:
        _prepare(file)
    return [file.split for file in todo]


def _prepare(file: Layout) -> None:
    """Four steps of about ten seconds each for the training split."""
    with tqdm(total=4, desc=file.source.name, unit="step") as bar:

        def begin(step: str) -> None:
            bar.update(int(bool(bar.postfix)))
            bar.set_postfix_str(step)

        begin("reading")
        content = read_json(file.source, "panoptic file")
        begin("converting")
        content = convert(content, file.source)
        begin("checking")
        parse_annotations(content, file.source)
        begin("writing")
        write_prepared(file.prepared, _origin(file), content)
        bar.update()


def missing_of_coco_panoptic(root: str | os.PathLike, splits: Sequence[str] = SPLITS) -> list[str]:
    """What is missing before the data set can be used, a line each; nothing is changed.

    Raises:
        ValueError: a file is of another kind than expected.
    """
    missing = []
    for file in (layout(root, split) for split in splits):
        ready = is_current(file.prepared, _origin(file))
        if not ready and not file.source.is_file():
            missing.append(f"{file.split}: panoptic file {file.source} does not exist: {_REMEDY}")
            continue
        images = read_section(file.prepared if ready else file.source, "images")
        names = [image["file_name"] for image in images]
        absent = missing_files(file.images, names)
        if absent:
            what = describe_missing(absent, names, file.images)
            missing.append(f"{file.split}: {what}: unpack {file.split}2017.zip there")
        if not ready:
            missing.append(f"{file.split}: {file.prepared} is not made yet: run prepare_coco_panoptic.py")
    return missing


def convert(content: Any, path: str | os.PathLike) -> dict[str, Any]:
    """Annotations of a panoptic file as boxes in COCO format.

    Args:
        content: of the panoptic file.
        path: of the file, for errors.

    Raises:
        ValueError: the file holds no panoptic annotations, or others than those of COCO.
    """
    _check_panoptic(content, path)
    annotations: list[dict[str, Any]] = []
    for image in content["annotations"]:
        for segment in image["segments_info"]:
            try:
                annotation = {key: segment[key] for key in ("category_id", "bbox", "area", "iscrowd")}
            except (KeyError, TypeError):
                raise ValueError(
                    f"panoptic file {path}: segment {json.dumps(segment)[:120]} of image "
                    f"{image.get('image_id')} needs category_id, bbox, area, iscrowd"
                ) from None
            annotations.append({"id": len(annotations) + 1, "image_id": image.get("image_id")} | annotation)
    return {"images": content["images"], "annotations": annotations, "categories": coco_panoptic_categories()}


def _check_panoptic(content: Any, path: str | os.PathLike) -> None:
    sections = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in sections):
        raise ValueError(f"panoptic file {path} is not COCO's: expected the lists {', '.join(sections)}")
    for annotation in content["annotations"]:
        if isinstance(annotation, dict) and "bbox" in annotation:
            raise ValueError(
                f"panoptic file {path} holds boxes of instances, expected segments: "
                "put panoptic_{train,val}2017.json there, from panoptic_annotations_trainval2017.zip"
            )
        if not isinstance(annotation, dict) or not isinstance(annotation.get("segments_info"), list):
            raise ValueError(
                f"panoptic file {path} is not COCO's: expected segments_info in every annotation"
            )
    expected = {category["id"]: category["name"] for category in coco_panoptic_categories()}
    found = {category.get("id"): category.get("name") for category in content["categories"]}
    if found != expected:
        raise ValueError(
            f"panoptic file {path} has {len(found)} categories, expected COCO's {len(expected)} "
            "of things and stuff"
        )


def _origin(file: Layout) -> dict[str, Any]:
    """The size of a large file tells it from another at once; the file may be gone later."""
    size = {"source_bytes": file.source.stat().st_size} if file.source.is_file() else {}
    return {"generator": _GENERATOR, "version": VERSION, "source": file.source.name} | size
