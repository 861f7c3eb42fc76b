"""Whether all files of a data set are there: said in one line before anything is trained or evaluated."""

import json
import mmap
import os
import re
from collections.abc import Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.data.annotations import panoptic_error
from fisher_detr.data.register import CocoDataset
from fisher_detr.files import read_json

_REMEDY = "check its paths, or point DETECTRON2_DATASETS at the folder that holds it (datasets/README.md)"


def check_dataset(name: str) -> None:
    """Check that the annotation file of a data set can be used and that its images are there.

    Of what this package has registered all annotations are checked. Of another set in COCO's format, such as
    Detectron2's own, only what is quickly seen: COCO's 860,000 annotations are left to Detectron2.

    Args:
        name: of a registered data set; nothing is checked where it is not in COCO's format.

    Raises:
        FileNotFoundError: no annotation file, or images are missing.
        ValueError: the annotation file is of another kind, cut off, or has other categories.
    """
    dataset = DatasetCatalog.data.get(name)
    if isinstance(dataset, CocoDataset):
        check_images(name, dataset.image_root, dataset.annotations.file_names, dataset.remedy)
        return
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if metadata.get("evaluator_type") != "coco" or not json_file or "://" in f"{json_file}{image_root}":
        return
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"annotation file {json_file} of data set {name!r} does not exist: {_REMEDY}")
    _check_kind(json_file)
    _check_categories(name, read_section(json_file, "categories"))
    file_names = [image["file_name"] for image in read_section(json_file, "images")]
    check_images(name, image_root, file_names, _REMEDY)


def check_images(name: str, image_root: str, file_names: Iterable[str], remedy: str) -> None:
    """Check that all images of a data set are there, by their names.

    Args:
        name: of the data set, for the error.
        image_root: folder of the images.
        file_names: relative to it.
        remedy: what to do, for the error.

    Raises:
        FileNotFoundError: no such folder, or images are missing.
    """
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"image root {image_root} of data set {name!r} is no folder: {remedy}")
    file_names = list(file_names)
    missing = missing_files(image_root, file_names)
    if missing:
        raise FileNotFoundError(
            f"data set {name!r}: {describe_missing(missing, file_names, image_root)}: {remedy}"
        )


def describe_missing(missing: list[str], file_names: list[str], image_root: str | os.PathLike) -> str:
    """How many images are missing, and the first of them, in words."""
    first = " ".join(missing[0].splitlines())
    return f"{len(missing)} of {len(file_names)} images are missing in {image_root} (first: {first})"


def missing_files(root: str | os.PathLike, names: Iterable[str]) -> list[str]:
    """Which files are not below a folder; listing folders is quicker than asking for each file.

    Args:
        root: the folder.
        names: of the files, relative to it.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listed[folder]:
            missing.append(name)
    return missing


def read_section(path: str | os.PathLike, section: str) -> list[dict[str, Any]]:
    """One list of an annotation file; the rest is not parsed where the list is found without.

    Args:
        path: annotation file in COCO format.
        section: "images" or "categories".

    Raises:
        ValueError: the file is not JSON, or has no such list.
    """
    found = _find_section(path, section)
    if not _is_section(found, section):
        content = read_json(path, "annotation file")
        found = content.get(section) if isinstance(content, dict) else None
    if not _is_section(found, section):
        raise ValueError(
            f"annotation file {path} is not COCO: expected a list {section!r} with "
            f"{' and '.join(_SECTION_KEYS[section])} in each, ids of one kind and names as text"
        )
    return found


_SECTION_KEYS = {"images": ("id", "file_name"), "categories": ("id", "name")}


def _is_section(value: Any, section: str) -> bool:
    id_key, name_key = _SECTION_KEYS[section]
    return (
        isinstance(value, list)
        and all(isinstance(entry, dict) and isinstance(entry.get(name_key), str) for entry in value)
        and any(all(isinstance(entry.get(id_key), kind) for entry in value) for kind in (int, str))
    )


def _find_section(path: str | os.PathLike, section: str) -> Any:
    """What follows the first key of that name, None where it cannot be told without the rest."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        key = re.search(rb'"%s"\s*:\s*' % section.encode(), content)
        # The images of COCO's largest file take 41 MB.
        text = content[key.end() : key.end() + 2**26].decode(errors="ignore") if key else ""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except ValueError:
        return None


def _check_kind(json_file: str) -> None:
    with open(json_file, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError(f"annotation file {json_file} is empty: unpack it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b'"segments_info"') >= 0:
                raise ValueError(panoptic_error(json_file))
            if not content[-64:].rstrip().endswith(b"}"):
                raise ValueError(f"annotation file {json_file} is cut off: unpack it again")


def _check_categories(name: str, categories: list[dict[str, Any]]) -> None:
    """Detectron2 tells the categories of its own sets beforehand."""
    known = MetadataCatalog.get(name).get("thing_classes")
    found = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    if known and found != known:
        raise ValueError(
            f"data set {name!r} has {len(known)} categories and its annotation file "
            f"{MetadataCatalog.get(name).json_file} others ({len(found)}): "
            "register your own data under another name, in DATASETS.REGISTER"
        )
