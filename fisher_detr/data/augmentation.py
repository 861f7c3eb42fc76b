"""The augmentations of DETR, Deformable DETR and DAB-DETR on Detectron2's transforms.

They draw from NumPy's global generator, which `AugmentedImages` seeds for every image of a training.
"""

import enum

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T


class CropType(enum.StrEnum):
    """How a training image is cropped."""

    RELATIVE = "relative"  # each side a random part of the image's
    ABSOLUTE = "absolute"  # as in the originals: resize, then crop sides of a random number of pixels


class ResizeShorterSide(T.ResizeShortestEdge):
    """Resizes the shorter side to one of several lengths, the longer one to no more than a limit.

    Detectron2 rounds the longer side, the originals cut it off: one pixel, in half of all images. Their
    checkpoints were trained and are evaluated with sizes that are cut off, so these are too.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw a length and resize to it; a length of 0 leaves the image as it is."""
        low, high = self.short_edge_length[0], self.short_edge_length[-1]
        size = np.random.randint(low, high + 1) if self.is_range else np.random.choice(self.short_edge_length)  # noqa: NPY002
        height, width = image.shape[:2]
        if size == 0:
            return T.NoOpTransform()
        return T.ResizeTransform(
            height, width, *resized_size(height, width, int(size), self.max_size), self.interp
        )


def resized_size(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """Height and width in pixels, at least one, with the shorter side `size` where the limit allows it.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        size: of the shorter side.
        max_size: limit of the longer side; through rounding of the shorter one it may be passed by a little.
    """
    shorter, longer = min(height, width), max(height, width)
    if longer / shorter * size > max_size:
        size = round(max_size * shorter / longer)
    size = max(1, size)
    if width < height:
        return max(1, int(size * height / width)), size
    return size, max(1, int(size * width / height))


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Flip, crop, colour (each only in training, where the config asks for it) and the resize, in this order.

    Colour comes before the last resize, where images usually have fewer pixels.
    """
    if not is_train:
        return [ResizeShorterSide(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    augmentations = []
    if cfg.INPUT.RANDOM_FLIP != "none":
        vertical = cfg.INPUT.RANDOM_FLIP == "vertical"
        augmentations.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    detr = cfg.INPUT.DETR_AUG
    if detr.CROP_PROB > 0:
        augmentations.append(T.RandomApply(_build_crop(cfg), detr.CROP_PROB))
    if detr.COLOR > 0:
        low, high = 1 - detr.COLOR, 1 + detr.COLOR
        augmentations += [
            T.RandomBrightness(low, high),
            T.RandomContrast(low, high),
            T.RandomSaturation(low, high),
        ]
    resize = ResizeShorterSide(
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    )
    return [*augmentations, resize]


def _build_crop(cfg: CfgNode) -> T.Augmentation:
    detr = cfg.INPUT.DETR_AUG
    if CropType(detr.CROP_TYPE) is CropType.RELATIVE:
        return T.RandomCrop("relative_range", (detr.CROP_MIN, detr.CROP_MIN))
    crop = T.RandomCrop("absolute_range", tuple(detr.CROP_SIZE))
    return T.AugmentationList([ResizeShorterSide(detr.CROP_RESIZE, sample_style="choice"), crop])
