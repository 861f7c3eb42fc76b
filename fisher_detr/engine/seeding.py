"""Random numbers of a training as a function of its seed and the iteration."""

from typing import Any

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng


class SeedHook(HookBase):
    """Makes a training that was stopped and resumed draw what an uninterrupted one draws.

    Before each iteration the generators of NumPy, Python and PyTorch are seeded with the seed, the iteration
    and the rank. Where the run begins, the trainer's `TrainLoader` is told the iteration and the seed.
    """

    def __init__(self, seed: int = -1):
        """Build.

        Args:
            seed: below 0: the one that the checkpoint holds; in a new run one that the ranks draw together.
        """
        self._seed = seed

    def before_train(self) -> None:
        """Agree on the seed, and tell the loader where to begin."""
        if self._seed < 0:
            self._seed = comm.shared_random_seed()
        self.trainer.data_loader.seed = self._seed
        self.trainer.data_loader.iteration = self.trainer.iter

    def before_step(self) -> None:
        """Seed this iteration."""
        seed_iteration(self._seed, self.trainer.iter)

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": int(self._seed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed of the run that goes on, unless there is one already."""
        if self._seed < 0:
            self._seed = state_dict["seed"]


def seed_iteration(seed: int, iteration: int) -> None:
    """Seed all generators of this rank with a seed and an iteration."""
    entropy = [seed, iteration, comm.get_rank()]
    seed_all_rng(np.random.SeedSequence(entropy).generate_state(1).item())
