"""Any COCO-format data set by name, without writing code: `DATASETS.REGISTER`."""

import functools
import logging
import os
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from fisher_detr.data.annotations import CocoAnnotations, read_annotations

logger = logging.getLogger(__name__)


class CocoDataset:
    """A registered data set: the callable that Detectron2's catalog asks for the images' records.

    The annotation file is read on the first use, once; reading it also fills the metadata.
    """

    def __init__(
        self,
        name: str,
        json_file: str,
        image_root: str,
        drop_bad_boxes: bool = False,
        remedy: str = "check DATASETS.REGISTER",
    ):
        """Remember where the data are; nothing is read.

        Args:
            name: of the data set in the catalogs.
            json_file: annotation file in COCO format.
            image_root: folder of the images.
            drop_bad_boxes: see `read_annotations`.
            remedy: what to do where files are missing, for the errors.
        """
        self.name = name
        self.json_file = json_file
        self.image_root = image_root
        self.drop_bad_boxes = drop_bad_boxes
        self.remedy = remedy

    @functools.cached_property
    def annotations(self) -> CocoAnnotations:
        """The checked annotations; categories go to the metadata on the first call."""
        if not os.path.isfile(self.json_file):
            raise FileNotFoundError(
                f"annotation file {self.json_file} does not exist, of data set {self.name!r}: {self.remedy}"
            )
        annotations = read_annotations(self.json_file, self.drop_bad_boxes)
        if not os.path.isdir(self.image_root):
            raise FileNotFoundError(
                f"image root {self.image_root} of data set {self.name!r} is no folder: {self.remedy}"
            )
        self._check_categories(annotations.category_names)
        MetadataCatalog.get(self.name).set(
            thing_classes=list(annotations.category_names),
            thing_supercategories=list(annotations.supercategories),
            thing_dataset_id_to_contiguous_id={id_: i for i, id_ in enumerate(annotations.category_ids)},
        )
        logger.info(
            "Data set %s: %d images, %d boxes, %d categories",
            self.name,
            len(annotations.image_ids),
            len(annotations.boxes),
            len(annotations.category_ids),
        )
        return annotations

    def _check_categories(self, found: tuple[str, ...]) -> None:
        """Those of a data set that is known by name are told before its file is read."""
        known = MetadataCatalog.get(self.name).get("thing_classes")
        if known and list(found) != known:
            raise ValueError(
                f"data set {self.name!r} has {len(known)} categories and its annotation file "
                f"{self.json_file} others ({len(found)}): make it again, or register it under another name"
            )

    def __call__(self) -> list[dict[str, Any]]:
        """Records in Detectron2's standard format, ascending image ids; new ones on every call."""
        data = self.annotations
        starts = np.searchsorted(data.image_index, np.arange(len(data.image_ids) + 1))
        return [
            {
                "file_name": os.path.join(self.image_root, data.file_names[i]),
                "image_id": data.image_ids[i],
                "height": int(data.sizes[i, 0]),
                "width": int(data.sizes[i, 1]),
                "annotations": [_annotation_record(data, j) for j in range(starts[i], starts[i + 1])],
            }
            for i in range(len(data.image_ids))
        ]


def register_from_config_strings(
    entries: Iterable[str], used: Collection[str] | None = None, drop_bad_boxes: bool = False
) -> list[str]:
    """Register COCO-format data sets in Detectron2's catalogs.

    Metadata of the sets in use is complete on return: `thing_classes` (sorted by category id),
    `thing_dataset_id_to_contiguous_id`, `thing_supercategories`, `json_file`, `image_root`, `evaluator_type`.
    Registering a set again is fine.

    Args:
        entries: each "name:annotations.json:image_root"; relative paths are relative to the working
            directory, and `$DETECTRON2_DATASETS` stands for the folder of all data sets. The name and the
            image root hold no colon.
        used: names of the sets that are read and checked now; the others are read on first use. None: all.
        drop_bad_boxes: see `read_annotations`.

    Returns:
        The names, in the order of `entries`.

    Raises:
        FileNotFoundError: no annotation file or image root.
        ValueError: a malformed entry, a broken annotation file, or a name registered with other paths.
    """
    datasets = [_register(CocoDataset(*parse_entry(entry), drop_bad_boxes)) for entry in entries]
    for dataset in datasets:
        if used is None or dataset.name in used:
            _ = dataset.annotations
    return [dataset.name for dataset in datasets]


def parse_entry(entry: str) -> tuple[str, str, str]:
    """Split "name:annotations.json:image_root" into name and the two absolute paths.

    Raises:
        ValueError: a part is missing.
    """
    name, _, paths = entry.partition(":")
    json_file, _, image_root = paths.rpartition(":")
    if not (name.strip() and json_file.strip() and image_root.strip()):
        raise ValueError(f"DATASETS.REGISTER entry {entry!r}: expected 'name:annotations.json:image_root'")
    return name.strip(), _absolute(json_file), _absolute(image_root)


def class_counts(name: str) -> np.ndarray | None:
    """Number of objects of each class in a data set, crowd regions left out; None: it is not one of these."""
    dataset = DatasetCatalog[name]
    if not isinstance(dataset, CocoDataset):
        return None
    data = dataset.annotations
    return np.bincount(data.class_index[~data.crowd], minlength=len(data.category_ids))


def datasets_root() -> str:
    """The folder of all data sets: what `$DETECTRON2_DATASETS` names, else `datasets`, as for Detectron2."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS") or "datasets")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path.strip().replace("$DETECTRON2_DATASETS", datasets_root())))


def _register(dataset: CocoDataset) -> CocoDataset:
    if dataset.name not in DatasetCatalog:
        DatasetCatalog.register(dataset.name, dataset)
        MetadataCatalog.get(dataset.name).set(
            json_file=dataset.json_file, image_root=dataset.image_root, evaluator_type="coco"
        )
        return dataset
    known = DatasetCatalog[dataset.name]
    same = isinstance(known, CocoDataset) and (
        dataset.json_file,
        dataset.image_root,
        dataset.drop_bad_boxes,
    ) == (
        known.json_file,
        known.image_root,
        known.drop_bad_boxes,
    )
    if not same:
        metadata = MetadataCatalog.get(dataset.name)
        raise ValueError(
            f"data set {dataset.name!r} is registered already with {metadata.get('json_file')} and "
            f"{metadata.get('image_root')}, now {dataset.json_file} and {dataset.image_root}: "
            "choose another name"
        )
    return known


def _annotation_record(data: CocoAnnotations, index: int) -> dict[str, Any]:
    return {
        "bbox": data.boxes[index].tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(data.class_index[index]),
        "iscrowd": int(data.crowd[index]),
    }
