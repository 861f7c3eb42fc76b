"""A data set of 8 images and a config of a DETR that trains on it in a second."""

import json
from pathlib import Path

import cv2
import numpy as np
import yaml

from tests.checkpoint.small_detr import SMALL_DETR

BASE = Path(__file__).resolve().parents[2] / "configs" / "Base-DETR.yaml"
SIDE = 64
CATEGORIES = [
    {"id": 2, "name": "cat", "supercategory": "animal"},
    {"id": 5, "name": "dog", "supercategory": "animal"},
    {"id": 9, "name": "car", "supercategory": "vehicle"},
]
COLORS = {2: (250, 40, 40), 5: (40, 250, 40), 9: (40, 40, 250)}


def make_tiny_coco(folder: Path, num_images: int = 8) -> dict:
    """Draw the images and write `annotations.json`; returns what is in it. Image 0 has no object."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(num_images):
        picture = rng.integers(90, 110, (SIDE, SIDE, 3), dtype=np.uint8)
        for _ in range(i % 4):
            x, y = (int(v) for v in rng.integers(0, 36, 2))
            w, h = (int(v) for v in rng.integers(12, 28, 2))
            category = CATEGORIES[len(annotations) % 3]["id"]
            cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), COLORS[category], -1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / f"{i}.png"), picture[:, :, ::-1])
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    write_annotations(folder, content)
    return content


def write_annotations(folder: Path, content: dict, name: str = "annotations.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def write_config(path: Path, data: Path, output: Path, name: str = "tiny") -> Path:
    """A leaf below the committed base; one data set to train and test on."""
    config = {
        "_BASE_": str(BASE),
        "DATASETS": {"REGISTER": [f"{name}:{data}/annotations.json:{data}"], "TRAIN": [name], "TEST": [name]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "MODEL": {
            "DEVICE": "cpu",
            "WEIGHTS": "",
            "BACKBONE": {"NAME": "build_small_resnet_backbone", "FREEZE_AT": 0},
            "SMALL_RESNET": {"CHANNELS": [8, 16], "BLOCKS": [1, 1], "STEM_CHANNELS": 8},
            "DETR": SMALL_DETR | {"NUM_CLASSES": 0},
        },
        "INPUT": {
            "MIN_SIZE_TRAIN": [SIDE],
            "MAX_SIZE_TRAIN": SIDE,
            "MIN_SIZE_TEST": SIDE,
            "MAX_SIZE_TEST": SIDE,
            "DETR_AUG": {"CROP_TYPE": "relative"},
        },
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 4, "CHECKPOINT_PERIOD": 2, "BASE_LR": 1e-3, "STEPS": [3]},
        "TEST": {"IMS_PER_BATCH": 4, "EVAL_PERIOD": 2},
        "CRITICAL": {"TARGET": "animal"},
        "QUANT": {"CALIBRATION": {"NUM_IMAGES": 4}},
        "ALLOCATION": {"WIDTHS": [2, 4, 8]},
        "SEED": 1,
        "OUTPUT_DIR": str(output),
    }
    path.write_text(yaml.safe_dump(config))
    return path
