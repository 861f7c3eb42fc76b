"""Sizes and crops as in the originals: every box follows its pixels, and none is ever empty."""

import random
import re

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from torchvision.transforms import functional

from fisher_detr.config import add_fisher_detr_config
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.data.augmentation import ResizeShorterSide, build_augmentations, resized_size
from fisher_detr.engine.config_check import check_config


@pytest.fixture
def cfg():
    """The absolute crop on small images."""
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (48, 64, 80), 133
    crop = cfg.INPUT.DETR_AUG
    crop.CROP_TYPE, crop.CROP_PROB, crop.CROP_RESIZE, crop.CROP_SIZE = "absolute", 1.0, (40, 50, 60), (38, 60)
    return cfg


def seed(number):
    np.random.seed(number)  # noqa: NPY002 - Detectron2's augmentations draw from NumPy's global state


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),  # 800 * 640 / 480 = 1066.67
        (427, 640, (800, 1199)),  # 1199.06
        (640, 427, (1199, 800)),
        (500, 375, (1066, 800)),
        (
            300,
            640,
            (625, 1333),
        ),  # 800 * 640 / 300 > 1333: 1333 * 300 / 640 = 624.8 -> 625, 625 * 2.133 = 1333.3
        (200, 601, (444, 1334)),  # 443.6 -> 444, which passes the limit by one
        (800, 1200, (800, 1200)),
        (1, 5000, (1, 5000)),  # 0.27 -> 0 would be no image
    ],
)
def test_sizes(height, width, expected):
    assert resized_size(height, width, 800, 1333) == expected


def test_detectron2_rounds_where_the_originals_cut_off():
    assert T.ResizeShortestEdge.get_output_shape(480, 640, 800, 1333) == (800, 1067)


def test_sizes_against_torchvision():
    """Its `resize` to the shorter side cuts off too; the limit is applied beforehand in the originals."""
    drawn = random.Random(0)
    for _ in range(50):
        height, width, size = drawn.randint(20, 90), drawn.randint(20, 90), drawn.randint(10, 60)
        image = functional.resize(Image.new("L", (width, height)), size)
        assert resized_size(height, width, size, 10**6) == (image.height, image.width)


@pytest.mark.parametrize("style", ["choice", "range"])
def test_lengths_are_drawn(style):
    seed(0)
    resize = ResizeShorterSide((20, 24), 100, style)
    image = np.zeros((30, 60, 3), np.uint8)
    sizes = {resize.get_transform(image).apply_image(image).shape[:2] for _ in range(60)}
    lengths = range(20, 25) if style == "range" else (20, 24)
    assert sizes == {(length, 2 * length) for length in lengths}


def test_no_resize_at_length_zero():
    image = np.zeros((7, 9, 3), np.uint8)
    assert ResizeShorterSide(0, 100, "choice").get_transform(image).apply_image(image).shape == (7, 9, 3)


def test_crop_sides(cfg):
    """Sides between the limits or the image's, before the last resize."""
    seed(1)
    apply_crop = build_augmentations(cfg, True)[1]
    seen = []
    for _ in range(80):
        image = T.AugInput(np.zeros((60, 90, 3), np.uint8))
        apply_crop(image)
        seen.append(image.image.shape[:2])
    heights, widths = np.array(seen).T
    assert heights.min() == 38 and heights.max() > 55 and heights.max() <= 60
    assert widths.min() < 42 and widths.min() >= 38 and widths.max() > 55 and widths.max() <= 60


def test_crop_of_a_smaller_image(cfg):
    """The limit is the image: nothing is padded."""
    cfg.INPUT.DETR_AUG.CROP_RESIZE = (10,)
    image = T.AugInput(np.zeros((20, 30, 3), np.uint8))
    build_augmentations(cfg, True)[1](image)
    assert image.image.shape == (10, 15, 3)


def test_crop_probability(cfg):
    cfg.INPUT.DETR_AUG.CROP_PROB = 0.5
    seed(2)
    apply_crop = build_augmentations(cfg, True)[1]
    images = [T.AugInput(np.zeros((96, 96, 3), np.uint8)) for _ in range(200)]
    for image in images:
        apply_crop(image)
    cropped = sum(image.image.shape != (96, 96, 3) for image in images)
    assert 70 < cropped < 130, "100 of 200 expected, the standard deviation is 7"


def make_record(path, boxes):
    """A white rectangle for each box (xyxy) on black."""
    picture = np.zeros((72, 104, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        picture[y0:y1, x0:x1] = 255
    cv2.imwrite(str(path), picture)
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": i} for i, box in enumerate(boxes)
    ]
    return {"file_name": str(path), "image_id": 1, "height": 72, "width": 104, "annotations": annotations}


def test_boxes_follow_the_pixels(cfg, tmp_path):
    record = make_record(tmp_path / "image.png", [(12, 10, 90, 62)])
    seed(3)
    mapper = DetrDatasetMapper(cfg, True)
    cut = 0
    for _ in range(60):
        output = mapper(record)
        ys, xs = np.nonzero(output["image"][0].numpy() > 127)
        (box,) = output["instances"].gt_boxes.tensor.numpy()
        height, width = output["image"].shape[1:]
        seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(box - seen).max() <= 2.5, "half a pixel of the image, at most five times enlarged"
        cut += int(box[0] == 0 or box[1] == 0 or box[2] == width or box[3] == height)
    assert cut > 20, "most crops cut something off, and what is left stays"


@pytest.mark.parametrize("crop_type", ["absolute", "relative"])
def test_no_box_is_ever_empty(cfg, tmp_path, crop_type):
    cfg.INPUT.DETR_AUG.CROP_TYPE, cfg.INPUT.DETR_AUG.CROP_MIN = crop_type, 0.1
    rng = np.random.default_rng(4)
    corners = rng.integers(0, (100, 68), (40, 2))
    boxes = [
        (x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, rng.integers(1, 5, (40, 2)), strict=True)
    ]
    record = make_record(tmp_path / "image.png", [tuple(map(int, box)) for box in boxes])
    seed(4)
    mapper = DetrDatasetMapper(cfg, True)
    kept = 0
    for _ in range(60):
        output = mapper(record)
        found = output["instances"].gt_boxes.tensor
        height, width = output["image"].shape[1:]
        assert ((found[:, 2:] - found[:, :2]) >= 1).all()
        assert (found >= 0).all() and (found[:, 2] <= width).all() and (found[:, 3] <= height).all()
        assert len(found) == len(output["instances"].gt_classes)
        kept += len(found)
    assert kept > 200


def test_deterministic_under_a_seed(cfg, tmp_path):
    record = make_record(tmp_path / "image.png", [(30, 20, 70, 50), (2, 2, 20, 20)])
    cfg.INPUT.DETR_AUG.COLOR = 0.2
    mapper = DetrDatasetMapper(cfg, True)
    runs = []
    for number in (5, 5, 6):
        seed(number)
        runs.append([mapper(record) for _ in range(8)])
    for first, second in zip(*runs[:2], strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["instances"].gt_boxes.tensor, second["instances"].gt_boxes.tensor)
    assert [output["image"].shape for output in runs[0]] != [output["image"].shape for output in runs[2]]


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("CROP_TYPE", "pixels", "expected one of relative, absolute"),
        ("CROP_PROB", 1.5, "expected 0 (never) to 1"),
        ("CROP_SIZE", (600, 384), "the smallest and the largest side"),
        ("CROP_MIN", 0.0, "above 0 to 1"),
        ("CROP_RESIZE", (), "expected lengths in pixels"),
    ],
)
def test_mistakes_are_told_before_the_first_image(cfg, key, value, part):
    cfg.INPUT.DETR_AUG[key] = value
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=re.escape(f"INPUT.DETR_AUG.{key} is ") + ".*" + re.escape(part)):
        check_config(cfg, ("TEST",))
