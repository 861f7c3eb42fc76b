"""The images on which a model is calibrated and its Fisher information is estimated."""

import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def sample_calibration_images(records: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw images without replacement: the same ones on every machine, in whatever order the records come.

    A smaller sample is the beginning of a larger one with the same seed.

    Args:
        records: of the training split, in Detectron2's standard format.
        count: number of images; all are taken, with a warning, where there are fewer.
        seed: of the draw.

    Returns:
        The sampled records, in the order of the draw.

    Raises:
        ValueError: no images to sample from, or a count below 1.
    """
    if count < 1 or not records:
        raise ValueError(
            f"calibration sample of {count} images from {len(records)}: expected at least one of each"
        )
    if count > len(records):
        logger.warning("Calibration: %d images asked for, %d available: all are taken", count, len(records))
    ordered = sorted(records, key=_stable_key)
    # RandomState's stream is frozen by NumPy; that of Generator may change between versions.
    drawn = np.random.RandomState(seed).permutation(len(ordered))[:count]
    return [ordered[i] for i in drawn]


def batches_of_one_size(
    samples: Sequence[dict[str, Any]], batch_size: int, pixels: float = math.inf
) -> list[list[dict[str, Any]]]:
    """Batches that need no padding: the loss of an image is then what it is alone.

    Args:
        samples: mapped images.
        batch_size: most images of a batch.
        pixels: most pixels of a batch, which has one image at least.

    Returns:
        Batches of images of one size each, in the order in which they are full; at the end those that are
        not. The first images are then a sample of all sizes.
    """
    batches: list[list[dict[str, Any]]] = []
    open_batch: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for sample in samples:
        shape = tuple(sample["image"].shape)  # [C, H, W]
        batch = open_batch.setdefault(shape, [])
        batch.append(sample)
        if len(batch) == batch_size or (len(batch) + 1) * shape[-1] * shape[-2] > pixels:
            batches.append(open_batch.pop(shape))
    return [*batches, *open_batch.values()]


def _stable_key(record: dict[str, Any]) -> tuple[bool, Any, str]:
    image_id = record["image_id"]
    return isinstance(image_id, str), image_id, os.path.basename(record["file_name"])
