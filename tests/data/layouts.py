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
HEIGHT, WIDTH = 96, 128  # of all pictures
CITIES = {"train": ("aachen", "zurich"), "val": ("lindau",)}
# Labels of the polygons and their ids in the official label images; -1 is not drawn there.
LABELS = {
    "ego vehicle": 1,
    "road": 7,
    "building": 11,
    "pole": 17,
    "polegroup": 18,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
    "license plate": -1,
}
WITH_INSTANCES = [label for label, id_ in LABELS.items() if id_ >= 24]


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


def write_cityscapes_tree(root: Path, per_city: int = 2, seed: int = 0) -> None:
    """Write `cityscapes/leftImg8bit/<split>/<city>/*.png` and their polygons and label images in `gtFine`.

    Train has two cities, val one. Every picture has rectangles that hide each other, among them a group, a
    deleted object, a license plate, and a car that is hidden completely.

    Args:
        root: what `$DETECTRON2_DATASETS` is to name.
        per_city: pictures of each city.
        seed: of what is drawn where.
    """
    folder = root / "cityscapes"
    for split, cities in CITIES.items():
        for number, city in enumerate(cities):
            rng = np.random.default_rng([seed, number, len(split)])
            for i in range(per_city):
                objects = _street_objects(rng)
                name = f"{split}/{city}/{city}_{i:06d}_000019"
                _write_picture(folder / f"leftImg8bit/{name}_leftImg8bit.png", _street_picture(objects, rng))
                content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
                write_json(folder / f"gtFine/{name}_gtFine_polygons.json", content)
                ids, instances = _label_images(objects)
                cv2.imwrite(str(folder / f"gtFine/{name}_gtFine_labelIds.png"), ids)
                cv2.imwrite(str(folder / f"gtFine/{name}_gtFine_instanceIds.png"), instances)


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


def _street_objects(rng: np.random.Generator) -> list[dict]:
    """Objects as annotated, from back to front."""
    objects = [_street_object("road", 0, 40, WIDTH - 1, HEIGHT - 1), _street_object("car", 30, 30, 40, 40)]
    labels = [*WITH_INSTANCES, "cargroup", "persongroup", "building", "pole", "polegroup", "license plate"]
    for label in rng.permutation(labels * 2):
        w, h = (int(v) for v in rng.integers(4, 40, 2))
        x, y = int(rng.integers(-5, WIDTH - 10)), int(rng.integers(-5, HEIGHT - 10))
        objects.append(_street_object(str(label), x, y, x + w, y + h))
    objects.append(_street_object("bus", 28, 28, 42, 42))  # hides the first car
    objects.append(_street_object("person", 60, 50, 70, 80) | {"deleted": 1, "draw": False})
    objects.append(_street_object("rider", 80, 50, 85, 60) | {"deleted": 0})
    objects.append(_street_object("ego vehicle", 0, 90, WIDTH - 1, HEIGHT - 1))
    return objects


def _street_object(label: str, x0: int, y0: int, x1: int, y1: int) -> dict:
    return {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}


def _visible_slices(objects: list[dict]):
    """Label and pixels of each object that is drawn; a polygon includes the pixels of its corners."""
    for thing in objects:
        (x0, y0), _, (x1, y1), _ = thing["polygon"]
        if not thing.get("deleted") and thing["label"] != "license plate":
            yield thing["label"], (slice(max(0, y0), y1 + 1), slice(max(0, x0), x1 + 1))


def _label_images(objects: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """labelIds (a class for each pixel) and instanceIds (1000 * class + number where there are instances)."""
    ids, instances = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint16)
    seen = dict.fromkeys(WITH_INSTANCES, 0)
    for label, pixels in _visible_slices(objects):
        id_ = LABELS[label if label in LABELS else label.removesuffix("group")]
        ids[pixels] = instances[pixels] = id_
        if label in seen:
            instances[pixels] = 1000 * id_ + seen[label]
            seen[label] += 1
    return ids, instances


def _street_picture(objects: list[dict], rng: np.random.Generator) -> np.ndarray:
    picture = rng.integers(90, 110, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for _, pixels in _visible_slices(objects):
        picture[pixels] = rng.integers(0, 256, 3)
    return picture


def _write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture.astype(np.uint8))
