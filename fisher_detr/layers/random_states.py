"""State of torch's generators, to draw the same again."""

from collections.abc import Sequence

import torch
from torch import Tensor


def random_states() -> list[Tensor]:
    """Of the CPU, and of the current GPU if there is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]


def set_random_states(states: Sequence[Tensor]) -> None:
    """As `random_states` found them."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
