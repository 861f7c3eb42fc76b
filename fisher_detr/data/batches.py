"""Which images each iteration of a training sees, as a function of the seed and the iteration."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class GlobalBatchSampler:
    """Endless batches of the whole run; each rank takes its part of every one.

    Every epoch is a new permutation of all images. With groups, the images of a batch are of one group: a
    batch comes when its group has enough images, and what is left of a group at the end of an epoch begins
    its next batch. Nothing but integers is needed to tell the batches from any iteration on.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        groups: Sequence[int] | None = None,
        repeat_factors: Sequence[float] | None = None,
    ):
        """Check the sizes.

        Args:
            size: number of images.
            batch_size: images of an iteration over all ranks; may be more than there are.
            groups: of each image, from 0; None: all images are of one group.
            repeat_factors: how often each image comes in an epoch, at least 1; a fraction is the probability
                of one time more. None: each comes once.

        Raises:
            ValueError: no images, no batch, or groups or factors for another number of images.
        """
        if size < 1 or batch_size < 1:
            raise ValueError(f"batches of {batch_size} from {size} images: expected at least one of each")
        self.batch_size = batch_size
        self._groups = np.zeros(size, dtype=np.int64) if groups is None else np.asarray(groups, np.int64)
        self._factors = np.ones(size) if repeat_factors is None else np.asarray(repeat_factors, np.float64)
        if self._groups.shape != (size,) or self._factors.shape != (size,):
            raise ValueError(
                f"{size} images, {len(self._groups)} groups and {len(self._factors)} repeat factors: "
                "expected one of each for every image"
            )
        if (self._factors < 1).any():
            raise ValueError(f"repeat factor {self._factors.min():g}: expected at least 1")

    def starting_at(self, iteration: int, seed: int) -> Iterator[np.ndarray]:
        """Indices of the images of each iteration, `[batch_size]`, from an iteration on."""
        for batches in self._epochs(seed):
            if iteration < len(batches):
                yield from batches[iteration:]
            iteration = max(0, iteration - len(batches))

    def _epochs(self, seed: int) -> Iterator[np.ndarray]:
        """The batches that each epoch completes, `[N, batch_size]`, in the order of their completion."""
        waiting = [np.zeros(0, dtype=np.int64)] * (self._groups.max() + 1)
        for epoch in itertools.count():
            order = self._permutation(seed, epoch)
            batches, ends = [], []
            for group, before in enumerate(waiting):
                places = np.flatnonzero(self._groups[order] == group)
                line = np.concatenate([before, order[places]])
                whole = len(line) // self.batch_size * self.batch_size
                batches.append(line[:whole].reshape(-1, self.batch_size))
                ends.append(places[np.arange(self.batch_size - 1, whole, self.batch_size) - len(before)])
                waiting[group] = line[whole:]
            yield np.concatenate(batches)[np.argsort(np.concatenate(ends))]

    def _permutation(self, seed: int, epoch: int) -> np.ndarray:
        # RandomState's stream is frozen by NumPy; that of Generator may change between versions.
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
        whole, part = np.divmod(self._factors, 1)
        times = whole.astype(np.int64) + (random.random_sample(len(part)) < part)
        return random.permutation(np.repeat(np.arange(len(times)), times))


def aspect_ratio_groups(records: Sequence[dict[str, Any]]) -> list[int]:
    """Group of each image by its shape: 0 where it is wider than high, else 1, as in Detectron2.

    Args:
        records: in Detectron2's standard format.

    Raises:
        ValueError: a record does not tell its size.
    """
    for record in records:
        if "width" not in record or "height" not in record:
            raise ValueError(
                f"image {record.get('file_name')} has no width and height in its record: "
                "set DATALOADER.ASPECT_RATIO_GROUPING to False"
            )
    return [0 if record["width"] > record["height"] else 1 for record in records]
