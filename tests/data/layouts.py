"""Small COCO, COCO Panoptic and Cityscapes trees in exactly the official layouts, below a folder.

The folder is what `$DETECTRON2_DATASETS` names. `use_tree` points the catalogs of a test at it; a process of
its own gets it by the environment variable.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_coco

from fisher_detr.data import register_builtin
from fisher_detr.data.categories import coco_categories, coco_panoptic_categories

SPLITS = ("train", "val")
HEIGHT, WIDTH = 96, 128  # of the pictures in both COCO trees


def write_coco_tree(root: Path, num_images: int = 4, seed: int = 0) -> None:
    """Write `coco/{train2017,val2017}` and `coco/annotations/instances_{train2017,val2017}.json`.

    Every split has `num_images` pictures, with ids that are not contiguous. Picture 0 has no object, picture
    1 a crowd region beside its objects, the others two or three coloured rectangles.

    Args:
        root: what `$DETECTRON2_DATASETS` is to name.
        num_images: of each split.
        seed: of what is drawn where.
    """
    categories = coco_categories()
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        images, annotations = [], []
        for i in range(num_images):
            images.append(_coco_image(i, number))
            picture = rng.integers(90, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            for _ in range(min(i, 1) * (2 + i % 2)):
                box = _rectangle(picture, rng)
                category = categories[int(rng.integers(len(categories)))]
                annotations.append(_object(len(annotations), images[-1], category, box))
            if i == 1:
                annotations.append(_crowd(len(annotations), images[-1], categories[0]))
            _write_picture(root / f"coco/{split}2017" / images[-1]["file_name"], picture)
        content = _coco_head(images) | {"annotations": annotations, "categories": categories}
        write_json(root / f"coco/annotations/instances_{split}2017.json", content)


def write_coco_panoptic_tree(root: Path, num_images: int = 4, seed: int = 0) -> None:
    """Write pictures named as in `write_coco_tree` and `coco/annotations/panoptic_{train2017,val2017}.json`.

    And `coco/panoptic_{train2017,val2017}/*.png`, whose pixels are the segments' ids. Every picture has a
    stuff segment of all that is no rectangle (an area smaller than its box), picture 1 a crowd segment too.

    Args:
        root: what `$DETECTRON2_DATASETS` is to name.
        num_images: of each split.
        seed: of what is drawn where.
    """
    things = [category for category in coco_panoptic_categories() if category["isthing"]]
    stuff = [category for category in coco_panoptic_categories() if not category["isthing"]]
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        images, annotations = [], []
        for i in range(num_images):
            images.append(_coco_image(i, number))
            picture = rng.integers(90, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            segments = np.full((HEIGHT, WIDTH), 1000, dtype=np.int64)
            kinds = {1000: (stuff[int(rng.integers(len(stuff)))], 0)}
            for k in range(min(i, 1) * (2 + i % 2)):
                x, y, w, h = _rectangle(picture, rng)
                segments[y : y + h, x : x + w] = 1001 + k
                kinds[1001 + k] = things[int(rng.integers(len(things)))], int(i == 1 and k == 0)
            annotations.append(_panoptic_annotation(images[-1], segments, kinds))
            _write_picture(root / f"coco/{split}2017" / images[-1]["file_name"], picture)
            colours = np.stack([segments // 256**k % 256 for k in (2, 1, 0)], axis=2)  # R + 256 G + ...
            _write_picture(root / f"coco/panoptic_{split}2017" / annotations[-1]["file_name"], colours)
        content = _coco_head(images) | {"annotations": annotations, "categories": coco_panoptic_categories()}
        write_json(root / f"coco/annotations/panoptic_{split}2017.json", content)


def use_tree(monkeypatch, root: Path) -> None:
    """Register Detectron2's and this project's data sets below `root` for one test, as the variable would."""
    prefixes = ("coco_", "keypoints_coco_", "cityscapes_fine_detection_")
    own = {name for name in DatasetCatalog if name.startswith(prefixes)}
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {k: v for k, v in catalog.data.items() if k not in own})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    register_all_coco(str(root))
    register_builtin()


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _coco_head(images: list[dict]) -> dict:
    return {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"url": "", "id": 1, "name": "none"}],
        "images": images,
    }


def _coco_image(index: int, split: int) -> dict:
    id_ = 9 + 16 * index + 100000 * split
    return {
        "license": 1,
        "file_name": f"{id_:012d}.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "date_captured": "2013-11-14 11:18:45",
        "id": id_,
    }


def _rectangle(picture: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws one and returns its box, xywh in pixels."""
    w, h = (int(v) for v in rng.integers(12, 48, 2))
    x, y = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h))
    picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return x, y, w, h


def _object(number: int, image: dict, category: dict, box: tuple[int, int, int, int]) -> dict:
    x, y, w, h = box
    return {
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "area": float(w * h),
        "iscrowd": 0,
        "image_id": image["id"],
        "bbox": [float(v) for v in box],
        "category_id": category["id"],
        "id": 5000 + number,
    }


def _crowd(number: int, image: dict, category: dict) -> dict:
    """The left ten columns: run lengths go down the columns, the first run is outside."""
    runs = {"counts": [0, 10 * HEIGHT, (WIDTH - 10) * HEIGHT], "size": [HEIGHT, WIDTH]}
    crowd = _object(number, image, category, (0, 0, 10, HEIGHT))
    return crowd | {"segmentation": runs, "iscrowd": 1}


def _panoptic_annotation(image: dict, segments: np.ndarray, kinds: dict) -> dict:
    """As the official file has it: integer boxes that include their last pixel."""
    infos = []
    for id_, (category, iscrowd) in kinds.items():
        ys, xs = np.nonzero(segments == id_)
        if len(xs):
            x, y = int(xs.min()), int(ys.min())
            infos.append(
                {
                    "id": id_,
                    "category_id": category["id"],
                    "iscrowd": iscrowd,
                    "bbox": [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
                    "area": len(xs),
                }
            )
    return {
        "segments_info": infos,
        "file_name": image["file_name"].replace("jpg", "png"),
        "image_id": image["id"],
    }


def _write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture.astype(np.uint8))
