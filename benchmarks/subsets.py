"""Parts of a data set as data sets of their own."""

import os
from collections.abc import Collection
from pathlib import Path

from detectron2.data import MetadataCatalog

from benchmarks.turns import ROOT
from fisher_detr.files import read_json, write_json


def subset_entry(data_set: str, name: str, ids: Collection[int], path: Path) -> str:
    """Entry of DATASETS.REGISTER for some images of a registered data set.

    Args:
        data_set: its name.
        name: of the part.
        ids: of its images.
        path: of its annotations, which are written unless they are there.

    Returns:
        `name:annotations:images`, relative to the repository: the same settings in every checkout.
    """
    metadata = MetadataCatalog.get(data_set)
    file, images_at = (Path(os.path.relpath(x, ROOT)) for x in (path, metadata.image_root))
    if not path.exists():
        whole = read_json(metadata.json_file, "annotations")
        images = [image for image in whole["images"] if image["id"] in ids]
        annotations = [a for a in whole["annotations"] if a["image_id"] in ids]
        write_json(path, whole | {"images": images, "annotations": annotations})
    return f"{name}:{file}:{images_at}"
