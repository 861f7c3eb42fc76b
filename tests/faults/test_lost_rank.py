"""A rank that dies under torchrun; see also tests/engine/test_distributed.py."""

import subprocess
import sys

import pytest
import torch
from torch import distributed

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine.distributed import _is_lost_rank
from tests.faults import faulty
from tests.tools.driver import QUANTIZE, environment

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
OPTIONS = ["MODEL.SMALL_RESNET.NORM", "FrozenBN", "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 0]


def test_what_is_said_of_a_lost_rank():
    lost = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error: Connection reset by peer"
    assert _is_lost_rank(RuntimeError(lost))
    assert _is_lost_rank(distributed.DistBackendError("NCCL error"))
    assert not _is_lost_rank(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


FAULT = ["--rank", "1", "--at", "fisher_detr.engine.seeding:SeedHook.before_step:3"]  # the third iteration


def run(trained, output, fault=(), flags=(), keys=()):
    words = trained.arguments(*flags, *OPTIONS, *keys, "OUTPUT_DIR", output)
    ranks = [*LAUNCH, *faulty.command("train_net", *fault, "--", *words)[1:]]
    return subprocess.run(ranks, env=environment(), capture_output=True, text=True, timeout=240)


def test_the_others_end_without_a_trace_of_theirs(trained, tmp_path):
    """torchrun says which rank was killed by what, with a trace of its own."""
    done = run(trained, tmp_path, FAULT)
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert 'tools/train_net.py", line' not in done.stderr, done.stderr
    told = [line for line in done.stderr.splitlines() if "train_net: " in line]
    # torchrun may end the first rank before it has noticed.
    assert all("rank 0 waits for another one, which has ended or does not answer" in line for line in told)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_the_training_goes_on_and_becomes_what_it_would_have_become(trained, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert run(trained, killed, FAULT).returncode == 1
    for done in (run(trained, killed, flags=["--resume"]), run(trained, whole)):
        assert done.returncode == 0, done.stderr[-3000:]
    found, expected = (load_tensors(folder / "model_final.pth")["model"] for folder in (killed, whole))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.mark.parametrize(
    ("early", "told"),
    [(0, "images are done, from"), (1e-9, "have come to different rounds: the pass begins")],
)
def test_a_pass_over_the_images_goes_on(trained, tmp_path, early, told):
    """Killed before it has written down its second image, while the other rank is as far or further.

    Ranks that may end early look at each other in every round, and have to begin at the same one.
    """
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    keys = [
        *QUANTIZE,
        "MODEL.WEIGHTS",
        trained.output / "model_final.pth",
        "ALLOCATION.ARM",
        "fisher_critical",
    ]
    keys += ["FISHER.SAVE_EVERY", 1, "FISHER.BATCH_SIZE", 1, "FISHER.RELATIVE_ERROR", early]
    fault = ["--rank", "1", "--at", "fisher_detr.fisher.pass_file:PassFile._write:2"]
    assert run(trained, killed, fault, keys=keys).returncode == 1
    assert [*killed.glob("partial_*.1")] and not (killed / "allocation.json").exists()
    for folder in (killed, whole):
        done = run(trained, folder, keys=keys)
        assert done.returncode == 0, done.stderr[-3000:]
    logs = "".join(path.read_text() for path in killed.glob("log.txt*"))
    assert told in logs
    for name in ("sensitivity.json", "allocation.json"):
        assert (killed / name).read_text() == (whole / name).read_text()
    assert not [*killed.rglob("partial_*")]
