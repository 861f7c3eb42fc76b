"""From a record of the data set to the model's input."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from fisher_detr.data.augmentation import CropType, build_augmentations

# Boxes with a side below this many pixels of the model's input teach nothing and make the GIoU degenerate.
MIN_SIDE = 1.0


class DetrDatasetMapper:
    """Reads, augments and packs one image for DETR; Detectron2's loaders call it for each record.

    Ground truth is kept outside training too: calibration and the Fisher information need the loss of
    images that are not augmented. No box is ever empty.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: list[T.Augmentation],
        image_format: str,
        centre_inside: bool = True,
    ):
        """Set up; with a config: `DetrDatasetMapper(cfg, is_train)`.

        Args:
            is_train: in training, boxes that the augmentations move out of the image are dropped.
            augmentations: applied in order to the image and the boxes.
            image_format: of the image tensor: "RGB" or "BGR".
            centre_inside: in training, boxes whose centre was cut off are dropped too; otherwise whatever is
                left of an object counts, as in the originals.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.centre_inside = centre_inside

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of `__init__` from a config."""
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "centre_inside": cfg.INPUT.DETR_AUG.CROP_TYPE == CropType.RELATIVE,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record; it is not changed.

        Args:
            record: in Detectron2's standard format.

        Returns:
            The record without "annotations", with `image` (uint8 `[3, H, W]`) and, where the record is
            annotated, `instances` (gt_boxes xyxy in pixels of `image`, gt_classes; crowd regions left out).

        Raises:
            OSError: the image cannot be read.
        """
        output = {key: value for key, value in record.items() if key != "annotations"}
        augmented = T.AugInput(self._read_image(output))
        transforms = self.augmentations(augmented)
        output["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if "annotations" in record:
            output["instances"] = self._instances(
                record["annotations"], transforms, augmented.image.shape[:2]
            )
        return output

    def _read_image(self, record: dict[str, Any]) -> np.ndarray:
        try:
            image = detection_utils.read_image(record["file_name"], format=self.image_format)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and its own by format
            raise OSError(
                f"image {record['file_name']} (image id {record.get('image_id')}) cannot be read "
                f"({type(error).__name__}: {error}): repair the file or remove it from the annotations"
            ) from error
        detection_utils.check_image_size(record, image)
        return image

    def _instances(
        self, annotations: list[dict[str, Any]], transforms: T.Transform, image_size: tuple[int, int]
    ) -> Instances:
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
        # Before the transforms, which would turn a negative side over.
        positive = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, classes = boxes[positive], classes[positive]
        if len(boxes):
            boxes = transforms.apply_box(boxes)
        boxes, centre_inside = clip_boxes(boxes, image_size)
        sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float32)
        keep = (sides >= MIN_SIDE if self.is_train else sides > 0).all(axis=1)
        if self.is_train and self.centre_inside:
            keep &= centre_inside
        boxes, classes = boxes[keep], classes[keep]
        instances = Instances(image_size)
        instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.as_tensor(classes)
        return instances


def clip_boxes(boxes: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to the image and say which had their centre there.

    Args:
        boxes: xyxy in pixels, `[N, 4]`.
        image_size: height and width in pixels.

    Returns:
        The clipped boxes `[N, 4]`, and whether the centre was inside, `[N]`.
    """
    limits = np.array(image_size[::-1], dtype=boxes.dtype)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.clip(boxes, 0, np.tile(limits, 2)), ((centre >= 0) & (centre <= limits)).all(axis=1)
