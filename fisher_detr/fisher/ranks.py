"""The exchange between the ranks of torch.distributed's default group; nothing to do where there is none."""

from typing import Any

import torch
from torch import Tensor, distributed


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if not _is_shared():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gathered(part: Any) -> list[Any]:
    """What every rank gives, in the order of the ranks."""
    if not _is_shared():
        return [part]
    parts = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, part)
    return parts


def gather_rows(rows: Tensor) -> Tensor:
    """The rows `[n, ...]` of all ranks, one rank's after the other's, on the host: `[N, ...]`."""
    return torch.cat(gathered(rows.cpu()))


def sum_over_ranks(values: Tensor) -> None:
    """Add up in place, with the same bits on every rank."""
    if _is_shared():
        distributed.all_reduce(values)


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()
