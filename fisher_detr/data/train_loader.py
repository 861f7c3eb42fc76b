"""Training images, batch by batch, the same ones whenever and wherever a run goes on."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fisher_detr.data.batches import GlobalBatchSampler


class Sample(NamedTuple):
    """An image and its place in the stream of all images that a training sees."""

    index: int
    position: int


class AugmentedImages(Dataset):
    """Mapped records; the random numbers of each are drawn from the seed and its place in the stream."""

    def __init__(self, records: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], Any], seed: int):
        """Args are what is mapped, by what, and the seed."""
        self._records, self._mapper, self._seed = records, mapper, seed

    def __len__(self):
        return len(self._records)

    def __getitem__(self, sample: Sample) -> Any:
        """Map one record."""
        with seeded(self._seed, sample.position):
            return self._mapper(self._records[sample.index])


class TrainLoader:
    """Batches of one rank without end, from any iteration on.

    A pass over it begins at `iteration` with the random numbers of `seed`, as both are when its first batch
    is asked for.

    Attributes:
        iteration: whose batch comes first.
        seed: of the order and the augmentations; not negative.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], Any],
        sampler: GlobalBatchSampler,
        *,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 0,
    ):
        """Build.

        Args:
            records: in Detectron2's standard format; each look at one must give an object of its own.
            mapper: from a record to what the model gets.
            sampler: of the batches over all ranks.
            seed: see above.
            rank: of this process.
            num_ranks: that share each batch.
            num_workers: processes that load images for this one; 0: it does so itself.

        Raises:
            ValueError: the ranks cannot share a batch evenly.
        """
        if sampler.batch_size % num_ranks:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {sampler.batch_size}, which {num_ranks} processes cannot share: "
                f"set it to a multiple of {num_ranks}"
            )
        self.iteration, self.seed = 0, seed
        self._records, self._mapper, self._sampler = records, mapper, sampler
        self._rank, self._share, self._num_workers = rank, sampler.batch_size // num_ranks, num_workers

    def __iter__(self) -> Iterator[list[Any]]:
        # A generator: it looks at `iteration` when its first batch is asked for. Detectron2 0.6 makes the
        # iterator long before it knows where a training goes on.
        yield from DataLoader(
            AugmentedImages(self._records, self._mapper, self.seed),
            batch_sampler=self._samples(),
            num_workers=self._num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # which otherwise takes a number from the training's
        )

    def _samples(self) -> Iterator[list[Sample]]:
        batches = self._sampler.starting_at(self.iteration, self.seed)
        first = self._rank * self._share
        for iteration, batch in enumerate(batches, self.iteration):
            places = range(first, first + self._share)
            yield [Sample(int(batch[i]), iteration * self._sampler.batch_size + i) for i in places]


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed NumPy's, Python's and PyTorch's CPU generators inside the block, and leave them as they were.

    Args:
        *entropy: not negative; equal numbers give equal streams.
    """
    for_numpy, for_python, for_torch = np.random.SeedSequence(entropy).generate_state(3).tolist()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            np.random.seed(for_numpy)  # noqa: NPY002
            random.seed(for_python)
            torch.default_generator.manual_seed(for_torch)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
