"""`evaluation.json`: the metrics of an evaluation, and what they were measured on."""

import collections
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.data import Metadata
from pycocotools.coco import COCO

from fisher_detr.critical import metric_names
from fisher_detr.data import dataset_ids
from fisher_detr.files import write_json
from fisher_detr.structures import CategorySet

FILE_NAME = "evaluation.json"


def save_record(
    folder: str | os.PathLike,
    metrics: Mapping[str, float],
    metadata: Metadata,
    ground_truth: COCO,
    category_sets: Sequence[CategorySet],
) -> None:
    """Write a box evaluation's record, atomically.

    Args:
        folder: that gets `evaluation.json`.
        metrics: below "bbox", in percent; NaN becomes null.
        metadata: of the data set.
        ground_truth: what was to be found.
        category_sets: that were evaluated.
    """
    objects = collections.Counter(
        found["category_id"] for found in ground_truth.anns.values() if not found.get("iscrowd")
    )
    ids, classes = dataset_ids(metadata.name), metadata.thing_classes
    keys = metric_names(classes, ids)
    content = {
        "dataset": metadata.name,
        "annotations": _absolute(metadata.get("json_file")),
        "image_root": _absolute(metadata.get("image_root")),
        "num_images": len(ground_truth.imgs),
        "categories": [
            {"id": id_, "name": name, "metric": f"APcat_{key}", "objects": objects[id_]}
            for id_, name, key in zip(ids, classes, keys, strict=True)
        ],
        "sets": {chosen.name: [ids[i] for i in chosen.indices] for chosen in category_sets},
        "metrics": {name: None if math.isnan(value) else value for name, value in metrics.items()},
    }
    write_json(Path(folder) / FILE_NAME, content)


def _absolute(path: str | None) -> str | None:
    """Read later from another folder, perhaps."""
    return os.path.abspath(path) if path else None
