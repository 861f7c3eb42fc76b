"""What the metadata of a data set tell of its categories, also where this package did not register it."""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog

from fisher_detr.files import read_json


def complete_metadata(name: str, categories: Sequence[dict[str, Any]] | None = None) -> None:
    """Fill in the names, ids and super-categories that the metadata of a data set lack.

    Detectron2's own COCO sets come without super-categories, and what `register_coco_instances` registers
    comes without any category until its images are listed.

    Args:
        name: of the data set in Detectron2's catalogs.
        categories: the list of its annotation file. None: read from the metadata's `json_file`; where there
            is no such file, nothing is filled in.

    Raises:
        ValueError: the annotation file is not COCO.
    """
    metadata = MetadataCatalog.get(name)
    if categories is None:
        json_file = metadata.get("json_file") or ""
        if metadata.get("thing_supercategories") is not None or not os.path.isfile(json_file):
            return
        categories = _read_categories(json_file)
    by_id = {category["id"]: category for category in categories}
    if metadata.get("thing_classes") is None:
        metadata.thing_classes = [by_id[id_]["name"] for id_ in sorted(by_id)]
    if metadata.get("thing_dataset_id_to_contiguous_id") is None:
        # Detectron2 writes a data set that is not COCO with the contiguous indices as ids.
        metadata.thing_dataset_id_to_contiguous_id = {id_: i for i, id_ in enumerate(sorted(by_id))}
    if metadata.get("thing_supercategories") is None:
        in_file = [by_id.get(id_, {}) for id_ in dataset_ids(name)]
        metadata.thing_supercategories = [str(category.get("supercategory") or "") for category in in_file]


def dataset_ids(name: str) -> list[int]:
    """The id in the annotation file of each contiguous class index."""
    index = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    return sorted(index, key=index.__getitem__)


def _read_categories(json_file: str) -> list[dict[str, Any]]:
    content = read_json(json_file, "annotation file")
    categories = content.get("categories") if isinstance(content, dict) else None
    is_list = isinstance(categories, list) and all(
        isinstance(category, dict) and isinstance(category.get("name"), str) for category in categories
    )
    if not is_list or not any(all(isinstance(x.get("id"), kind) for x in categories) for kind in (int, str)):
        raise ValueError(
            f"annotation file {json_file} is not COCO: expected a list 'categories' with id and name in each"
        )
    return categories
