"""Micro-batches and averaged weights on two processes of the CPU."""

import copy

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from torch import distributed

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine.distributed import distribute, mean_over_ranks, share_buffers
from fisher_detr.engine.ema import ModelEMA
from tests.engine.toy_training import make_batches, make_toy, train

ITERATIONS = 3
STATISTICS = ("norm.running_mean", "norm.running_var")


def on_two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    comm._LOCAL_PROCESS_GROUP = distributed.new_group([0, 1])
    batches = [batch[4 * rank : 4 * rank + 4] for batch in make_batches(ITERATIONS, 8)]
    found = {"accumulated": accumulate(batches), "averaged": average(batches, folder)}
    found["means"] = mean_over_ranks(mixed(rank))
    torch.save(found, f"{folder}/{rank}.pth")
    distributed.barrier()  # a rank that leaves earlier may end the other's threads
    distributed.destroy_process_group()


def mixed(rank: int) -> list[torch.Tensor]:
    """Of several types, one of them not in one piece."""
    wide = torch.arange(6.0, dtype=torch.float64).view(2, 3).T
    return [wide * rank, torch.tensor([0.1 * rank]), torch.tensor(float(rank), dtype=torch.bfloat16)]


def accumulate(batches: list) -> dict:
    """Of two micro-batches on each rank."""
    model, exchanges = make_toy(), []
    wrapped = distribute(model)
    wrapped.register_comm_hook(exchanges, count_and_average)
    history = train(wrapped, batches, 2).storage.histories().get("total_loss")  # the main process has it
    losses = [value for value, _ in history.values()] if history else []
    return {"model": model.state_dict(), "exchanges": len(exchanges), "losses": losses}


def count_and_average(exchanges: list, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    exchanges.append(bucket.index())
    work = distributed.all_reduce(bucket.buffer().div_(2), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def average(batches: list, folder: str) -> dict:
    """Of a model with a batch norm: as it is kept, as it is evaluated, and what the model is afterwards."""
    model, ema = make_toy(norm=True), ModelEMA(0.8, folder)
    train(distribute(model), batches, hooks=(ema,))
    own = copy.deepcopy(ema.state_dict()["averages"])
    with ema.applied():
        share_buffers(model)
        evaluated = copy.deepcopy(model.state_dict())
    return {"own": own, "evaluated": evaluated, "after": model.state_dict()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(on_two_ranks, (str(folder),), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


def test_micro_batches_of_two_ranks_are_one_large_batch_after_one_exchange(ranks):
    expected = make_toy()
    history = train(expected, make_batches(ITERATIONS, 8), 0).storage.history("total_loss")
    for found in (rank["accumulated"] for rank in ranks):
        assert found["exchanges"] == ITERATIONS
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found["model"][name], value, rtol=1e-10, atol=1e-12)
    losses = ranks[0]["accumulated"]["losses"]
    np.testing.assert_allclose(losses, [value for value, _ in history.values()], rtol=1e-10)


def test_means_are_of_the_types_of_what_was_given(ranks):
    for found in (rank["means"] for rank in ranks):
        for mean, whole in zip(found, mixed(1), strict=True):
            torch.testing.assert_close(mean, whole / 2)


def test_two_ranks_evaluate_and_save_the_main_one_s_average(ranks, folder):
    """Weights are equal on all ranks; the statistics of a batch norm are each rank's own."""
    main, other = (rank["averaged"] for rank in ranks)
    stored = load_tensors(folder / "model_final_ema.pth")["model"]
    for name, value in main["own"].items():
        assert torch.equal(other["own"][name], value) == (name not in STATISTICS), name
        for found in (main["evaluated"], other["evaluated"], stored):
            assert torch.equal(found[name], value), name
        assert not torch.equal(main["after"][name], value), name
