"""Several processes that work as one: how they find each other, wait for each other, and end together."""

import contextlib
import datetime
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from detectron2.utils import comm
from torch import Tensor, distributed, nn

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What torchrun tells each process that it starts.
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_JOIN = datetime.timedelta(minutes=10)  # until all machines are there
_EXCHANGE = datetime.timedelta(minutes=30)  # until all ranks have come to an exchange
_PATIENCE = datetime.timedelta(days=30)  # until the main process has done what it does alone
_SPEAKING = 10.0  # seconds until a rank that fails has said why


class Rank:
    """One of the processes that torchrun has started."""

    def __init__(self):
        """Connect to the store that all ranks share; `joined` makes them a group."""
        self._store, self._rank, self._size = next(distributed.rendezvous("env://", timeout=_JOIN))
        self._failures = distributed.PrefixStore("failures", self._store)

    @classmethod
    def from_environment(cls) -> "Rank | None":
        """What torchrun, or what speaks like it, has started this process as; None: it has not."""
        return cls() if all(name in os.environ for name in _ENVIRONMENT) else None

    @contextlib.contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Exchange with the other ranks inside the block: by NCCL between GPUs, else by gloo.

        A rank that dies or does not come ends the exchange of the others with an error.

        Args:
            device: of the model: "cuda" or "cpu".

        Raises:
            ValueError: this machine has fewer GPUs than ranks.
            ConnectionError: another rank has died, or does not come to an exchange.
        """
        on_gpu = device.startswith("cuda")
        if on_gpu:
            _take_gpu()
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=self._store,
            rank=self._rank,
            world_size=self._size,
            timeout=_EXCHANGE,
        )
        comm._LOCAL_PROCESS_GROUP, _ = distributed.new_subgroups(int(os.environ["LOCAL_WORLD_SIZE"]))
        try:
            comm.synchronize()
            with main_process_works():  # a rank that left earlier could end the threads of another one
                yield
        except RuntimeError as error:
            if not _is_lost_rank(error):
                raise
            raise ConnectionError(
                f"rank {self._rank} waits for another one, which has ended or does not answer: see what that "
                "one says or was ended by (torchrun names it), then go on with --resume"
            ) from error
        comm._LOCAL_PROCESS_GROUP = None
        distributed.destroy_process_group()

    def let_first_speak(self) -> None:
        """Return in the first rank that fails; the others, which fail alike or in consequence, end mute."""
        try:
            first = int(self._failures.compare_set("first", "", str(self._rank)))
        except RuntimeError:  # the store is gone, and with it whoever could speak
            return
        if first != self._rank:
            logger.info("Rank %d has failed, and this one with it", first)
            # Upon the first end of a rank torchrun ends the others: it must not be this one's.
            time.sleep(_SPEAKING)
            sys.exit(1)


def from_main(value: T) -> T:
    """The main process's value, on every rank."""
    return comm.all_gather(value)[0] if comm.get_world_size() > 1 else value


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model so that its gradients are the mean over all ranks; nothing is done where there is one."""
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def mean_over_ranks(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Averages over all processes, by one exchange; the tensors themselves where there is one process."""
    if comm.get_world_size() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= comm.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor).to(tensor.dtype) for tensor, part in zip(tensors, parts, strict=True)]


def share_buffers(model: nn.Module) -> None:
    """Give all ranks the main one's buffers, which checkpoints hold: statistics of batch norms."""
    if comm.get_world_size() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.numel():
            distributed.broadcast(buffer, 0)


@contextlib.contextmanager
def main_process_works() -> Iterator[None]:
    """The other ranks wait at the end of the block for the main one, however long it takes."""
    if comm.get_world_size() == 1:
        yield
        return
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    yield
    distributed.barrier(group)
    distributed.destroy_process_group(group)


def _is_lost_rank(error: RuntimeError) -> bool:
    """NCCL has errors of its own; those of gloo are told by their text alone."""
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


def _take_gpu() -> None:
    ranks, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if ranks > found:
        raise ValueError(
            f"torchrun has started {ranks} processes on this machine, which has {found} GPUs: ask for no "
            "more than that, or set MODEL.DEVICE to cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
