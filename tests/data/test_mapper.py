import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode

from fisher_detr.config import add_fisher_detr_config
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.data.mapper import clip_boxes

HEIGHT, WIDTH = 40, 64


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32, 80), 100
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 80, 200
    cfg.INPUT.DETR_AUG.COLOR = 0.3
    return cfg


@pytest.fixture
def record(tmp_path):
    """A red rectangle on a gradient; its box is the first annotation, a crowd region the second."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = np.arange(WIDTH)
    image[10:26, 20:44] = (0, 0, 255)  # BGR
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, image)
    annotations = [
        {"bbox": [20, 10, 24, 16], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3, "iscrowd": 0},
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1},
    ]
    return {"file_name": path, "image_id": 5, "height": HEIGHT, "width": WIDTH, "annotations": annotations}


def test_inference_resizes_and_keeps_the_ground_truth(cfg, record):
    output = DetrDatasetMapper(cfg, False)(record)
    assert output["image"].shape == (3, 80, 128) and output["image"].dtype == torch.uint8
    assert output["image"][:, 40, 64].tolist() == [255, 0, 0], "RGB"
    assert (output["height"], output["width"], output["image_id"]) == (HEIGHT, WIDTH, 5)
    assert output["instances"].gt_boxes.tensor.tolist() == [[40, 20, 88, 52]]
    assert output["instances"].gt_classes.tolist() == [3], "crowd regions are left out"
    assert len(record["annotations"]) == 2 and "annotations" not in output


def test_boxes_follow_the_pixels_through_random_augmentation(cfg, record):
    cfg.INPUT.DETR_AUG.COLOR = 0.0
    cfg.INPUT.DETR_AUG.CROP_PROB, cfg.INPUT.DETR_AUG.CROP_MIN = 1.0, 0.2
    np.random.seed(0)  # noqa: NPY002 - Detectron2's augmentations draw from NumPy's global state
    mapper = DetrDatasetMapper(cfg, True)
    kept = 0
    for _ in range(50):
        output = mapper(record)
        ys, xs = np.nonzero(output["image"][0].numpy() > 127)
        for box in output["instances"].gt_boxes.tensor.numpy():
            seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert np.abs(box - seen).max() <= 2.0, "half a pixel of the image, at most 2.5 times enlarged"
            kept += 1
    assert 10 < kept < 50, "the crop sometimes cuts the object off"


def test_colour_stays_in_range(cfg, record):
    output = DetrDatasetMapper(cfg, True)(record)
    assert output["image"].dtype == torch.uint8


def test_clip_boxes_tells_whose_centre_is_inside():
    boxes = np.array([[-8, 2, 10, 12], [-12, 2, 10, 12], [0, 0, 50, 30], [60, 2, 70, 12]], float)
    clipped, inside = clip_boxes(boxes, (30, 50))
    assert inside.tolist() == [True, False, True, False]  # centres at x = 1, -1, 25, 65
    assert clipped[:2].tolist() == [[0, 2, 10, 12], [0, 2, 10, 12]]


def mapped(record, boxes, width=50, **arguments):
    """Boxes of the record, given as xyxy, after a crop to the left part of the image."""
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes]
    crop = T.CropTransform(0, 0, width, HEIGHT)
    mapper = DetrDatasetMapper(augmentations=[crop], image_format="BGR", **arguments)
    return mapper(record | {"annotations": annotations})["instances"].gt_boxes.tensor.tolist()


def test_what_a_crop_leaves(record):
    """The third keeps less than half, the fourth half a pixel, the last nothing."""
    boxes = [[5, 5, 20, 12], [40, 5, 58, 12], [45, 5, 60, 12], [49.5, 5, 60, 12], [52, 5, 60, 12]]
    left = [[5, 5, 20, 12], [40, 5, 50, 12], [45, 5, 50, 12]]
    assert mapped(record, boxes, centre_inside=False) == left, "as in the originals"
    assert mapped(record, boxes) == left[:2]
    assert mapped(record, boxes, is_train=False) == [*left, [49.5, 5, 50, 12]], "but none that is empty"


def test_no_box_is_empty_outside_training(record):
    """Detectron2 hands COCO's two boxes without height on."""
    assert mapped(record, [[5, 5, 20, 5], [20, 5, 5, 9], [5, 5, 20, 6]], is_train=False) == [[5, 5, 20, 6]]


def test_image_without_annotations(cfg, record):
    output = DetrDatasetMapper(cfg, True)(record | {"annotations": []})
    assert len(output["instances"]) == 0 and output["instances"].gt_boxes.tensor.shape == (0, 4)
    assert "instances" not in DetrDatasetMapper(cfg, False)(
        {k: v for k, v in record.items() if k != "annotations"}
    )


def test_built_without_a_config(record):
    mapper = DetrDatasetMapper(True, augmentations=[T.Resize((20, 32))], image_format="BGR")
    output = mapper(record)
    assert output["image"].shape == (3, 20, 32) and output["image"][:, 9, 16].tolist() == [0, 0, 255]


@pytest.mark.parametrize("content", [b"no image", None, "half"])
def test_unreadable_image_names_the_file(cfg, record, tmp_path, content):
    path = tmp_path / "broken.png"
    if content == "half":
        content = (tmp_path / "image.png").read_bytes()[:60]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"image .*broken\.png \(image id 5\) cannot be read") as error:
        DetrDatasetMapper(cfg, True)(record | {"file_name": str(path)})
    assert "\n" not in str(error.value)


def test_image_of_another_size_than_annotated(cfg, record):
    with pytest.raises(SizeMismatchError, match=r"image\.png"):
        DetrDatasetMapper(cfg, True)(record | {"width": WIDTH + 1})
