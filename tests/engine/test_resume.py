"""A training that goes on from a checkpoint is the one that never stopped, bit for bit."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from detectron2.engine import default_argument_parser

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine.seeding import SeedHook
from tests.engine import recorded
from tests.engine.tiny_coco import make_tiny_coco, write_config

NEW_SEED = ["SEED", -1]
WITH_DROPOUT = ["MODEL.DETR.DROPOUT", 0.3, "INPUT.DETR_AUG.CROP_PROB", 0.9, "INPUT.DETR_AUG.COLOR", 0.3]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_coco(folder / "data")
    return write_config(folder / "tiny.yaml", folder / "data", folder / "output", "tiny_resumed")


def train(config, output, *words):
    options = ["OUTPUT_DIR", output, "SOLVER.MAX_ITER", 7, "TEST.EVAL_PERIOD", 0, *WITH_DROPOUT, *words]
    args = ["--config-file", config, *options]
    if (output / "last_checkpoint").exists():
        args.insert(0, "--resume")
    losses, _ = recorded.train(default_argument_parser().parse_args([str(word) for word in args]))
    return losses


def stopped_after(checkpoint, output, folder):
    """What a run leaves that is killed some time after that checkpoint."""
    folder.mkdir()
    shutil.copy(output / checkpoint, folder)
    (folder / "last_checkpoint").write_text(checkpoint)
    return folder


@pytest.mark.parametrize(
    ("workers", "options"), [((0, 0), []), ((0, 2), NEW_SEED), ((2, 1), NEW_SEED)], ids=str
)
def test_resumed_run_is_the_uninterrupted_one(config, tmp_path, workers, options):
    first, later = (["DATALOADER.NUM_WORKERS", count, *options] for count in workers)
    losses = train(config, tmp_path / "whole", *first)
    assert len(set(losses)) == 7
    whole = load_tensors(tmp_path / "whole" / "model_final.pth")
    for iteration, checkpoint in ((2, "model_0000001.pth"), (6, "model_0000005.pth")):
        folder = stopped_after(checkpoint, tmp_path / "whole", tmp_path / str(iteration))
        torch.manual_seed(iteration), np.random.seed(iteration)  # noqa: NPY002
        assert train(config, folder, *later) == losses[iteration:]
        resumed = load_tensors(folder / "model_final.pth")
        assert all(torch.equal(value, resumed["model"][key]) for key, value in whole["model"].items())
        assert resumed["trainer"]["hooks"]["SeedHook"] == whole["trainer"]["hooks"]["SeedHook"]


def test_runs_without_a_seed_differ(config, tmp_path):
    seeds = set()
    for name in "ab":
        train(config, tmp_path / name, *NEW_SEED, "SOLVER.MAX_ITER", 1)
        state = load_tensors(tmp_path / name / "model_final.pth")["trainer"]["hooks"]["SeedHook"]
        seeds.add(state["seed"])
    assert len(seeds) == 2
    assert min(seeds) >= 0


@pytest.mark.parametrize(("seed", "expected"), [(-1, 8), (0, 0), (5, 5)])
def test_the_config_s_seed_comes_before_the_checkpoint_s(seed, expected):
    hook = SeedHook(seed)
    hook.load_state_dict({"seed": 8})
    assert hook.state_dict() == {"seed": expected}


def test_each_iteration_and_rank_has_random_numbers_of_its_own(monkeypatch):
    class Loader:
        pass

    class Run:
        data_loader, iter = Loader(), 4

    def drawn(iteration, rank):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
        hook = SeedHook(3)
        hook.trainer = Run()
        hook.before_train()
        hook.trainer.iter = iteration
        hook.before_step()
        return torch.rand(()).item()

    first = [drawn(*place) for place in itertools.product(range(3), range(2))]
    assert len(set(first)) == 6
    assert [drawn(*place) for place in itertools.product(range(3), range(2))] == first
    assert (Run.data_loader.seed, Run.data_loader.iteration) == (3, 4)
