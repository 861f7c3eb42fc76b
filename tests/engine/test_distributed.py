"""Two processes on the CPU, started by torchrun, against one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
from detectron2.engine import default_argument_parser
from torch import distributed

from fisher_detr.checkpoint import load_tensors
from fisher_detr.engine import run_training_command
from fisher_detr.engine.distributed import Rank, _take_gpu
from fisher_detr.engine.loaders import build_test_loader
from tests.engine import recorded
from tests.engine.tiny_coco import make_tiny_coco, write_config

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "tiny_ranks"
TRAIN_NET = REPOSITORY / "tools" / "train_net.py"
# Images of one size, frozen norms, a class loss that is divided by the objects of all ranks: but for rounding
# nothing depends on the number of ranks. SGD, because Adam makes a step of the rounding of a gradient near 0.
EXACT = {
    "INPUT.DETR_AUG.CROP_PROB": 0.0,
    "MODEL.SMALL_RESNET.NORM": "FrozenBN",
    "MODEL.DETR.CLASS_LOSS": "focal",
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MAX_ITER": 6,
    "SOLVER.IMS_PER_BATCH": 4,
    "TEST.EVAL_PERIOD": 6,
    "TEST.IMS_PER_BATCH": 3,  # 8 images: batches of 3, 3 and 2
}
EXACT_OPTIONS = [item for pair in EXACT.items() for item in pair]


def words(*arguments):
    return [str(word) for word in arguments]


def torchrun(*arguments, timeout=240):
    """Run two ranks; the launcher takes a free port."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, *launcher, *words(*arguments)]
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout
    )


def parse(*arguments):
    return default_argument_parser().parse_args(words(*arguments))


def detections(output):
    return json.loads((output / "inference" / NAME / "coco_instances_results.json").read_text())


def same_metrics(found, expected):
    assert found["bbox"].keys() == expected["bbox"].keys()
    for name, value in expected["bbox"].items():
        np.testing.assert_equal(found["bbox"][name], value, err_msg=name)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_coco(folder / "data")
    return write_config(folder / "tiny.yaml", folder / "data", folder / "output", NAME)


@pytest.fixture(scope="module")
def two_ranks(config, tmp_path_factory):
    """A training on two ranks: its folder, losses and metrics."""
    folder = tmp_path_factory.mktemp("two_ranks")
    done = torchrun(
        Path(recorded.__file__),
        folder / "losses.json",
        *("--config-file", config, "OUTPUT_DIR", folder / "output", *EXACT_OPTIONS),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((folder / "losses.json").read_text())
    return folder / "output", told["losses"], told["metrics"]


def test_two_ranks_have_the_losses_and_weights_of_one(config, two_ranks, tmp_path):
    output, losses, _ = two_ranks
    expected, _ = recorded.train(parse("--config-file", config, "OUTPUT_DIR", tmp_path, *EXACT_OPTIONS))
    assert len(losses) == EXACT["SOLVER.MAX_ITER"]
    assert losses[-1] < losses[0] - 0.1, "it has learned nothing"
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    one, two = (load_tensors(folder / "model_final.pth")["model"] for folder in (tmp_path, output))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_two_ranks_find_what_one_finds(config, two_ranks, tmp_path):
    """Not only the same AP: every detection, with its last bit."""
    output, _, metrics = two_ranks
    options = [*EXACT_OPTIONS, "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", tmp_path]
    expected = run_training_command(parse("--config-file", config, "--eval-only", *options))
    same_metrics(metrics, expected)
    assert detections(output) == detections(tmp_path)
    assert {found["image_id"] for found in detections(output)} == set(range(1, 9))


SEVERAL_SETS = ("FISHER.BATCH_SIZE", 1, "ALLOCATION.CRITICAL_SETS", "('vehicle', 'animal')")


def assert_same(found, expected):
    """Whatever is no fraction is equal; ranks add in an order of their own."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "chosen",
    [
        # Of the four images each rank has two.
        ("FISHER.BATCH_SIZE", 2),
        ("QUANT.WEIGHT.ROUNDING", "fisher", "FISHER.BATCH_SIZE", 1),
        (*("ALLOCATION.SENSITIVITY", "diagonal", "QUANT.WEIGHT.ROUNDING", "nearest"), *SEVERAL_SETS),
        ("ALLOCATION.SENSITIVITY", "measured", "ALLOCATION.WIDTHS", "(2, 4, 8)"),
        ("ALLOCATION.SENSITIVITY", "hawq_trace", "FISHER.BATCH_SIZE", 1, "FISHER.HAWQ_PROBES", 2),
    ],
    ids=["block", "rounding", "diagonal", "measured", "hawq"],
)
def test_quantization_by_two_ranks_is_that_of_one(config, two_ranks, tmp_path, one_thread, chosen):
    """They share the calibration images, or the layers that are measured."""
    weights, _, _ = two_ranks
    options = [*EXACT_OPTIONS, "MODEL.WEIGHTS", weights / "model_final.pth", "QUANT.ENABLED", "True", *chosen]
    one, two = tmp_path / "one", tmp_path / "two"
    done = torchrun(TRAIN_NET, "--config-file", config, "OUTPUT_DIR", two, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    run_training_command(parse("--config-file", config, "OUTPUT_DIR", one, *options))
    assert detections(two) == detections(one)
    files = sorted(path.name for path in one.glob("*.json") if path.name != "metrics.json")
    assert {"allocation.json", "coverage.json"} < set(files)
    for name in files:
        assert_same(json.loads((two / name).read_text()), json.loads((one / name).read_text()))
    again = torchrun(
        *(TRAIN_NET, "--config-file", config, "--eval-only", "OUTPUT_DIR", two, *options),
        *("MODEL.WEIGHTS", two / "model_quantized.pth"),
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert detections(two) == detections(one)


def one_line(done):
    """The one line of the driver in what torchrun prints, with no trace of the ranks."""
    assert done.returncode == 1
    assert 'tools/train_net.py", line' not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("train_net: ")]
    return line


def test_a_mistake_of_all_ranks_is_told_once(config, tmp_path):
    done = torchrun(TRAIN_NET, "--config-file", config, "SOLVER.IMS_PER_BATCH", 3, "OUTPUT_DIR", tmp_path)
    assert "IMS_PER_BATCH is 3, which 2 processes cannot share: set it to a multiple of 2" in one_line(done)


def test_a_mistake_of_one_rank_ends_the_other(config, two_ranks, tmp_path):
    """The image of the second rank cannot be read; the first waits for its detections."""
    data = Path(shutil.copytree(config.parent / "data", tmp_path / "data"))
    path = data / "7.png"
    path.write_bytes(path.read_bytes()[:60])
    broken = write_config(tmp_path / "broken.yaml", data, tmp_path / "output", "tiny_broken")
    done = torchrun(
        *(TRAIN_NET, "--config-file", broken, "--eval-only", *EXACT_OPTIONS),
        *("MODEL.WEIGHTS", two_ranks[0] / "model_final.pth"),
    )
    assert f"image {path} (image id 8) cannot be read" in one_line(done)


def test_a_dead_rank_ends_the_other(config, tmp_path):
    done = torchrun(
        *(Path(recorded.__file__), tmp_path / "losses.json", "--die", 2),
        *("--config-file", config, "OUTPUT_DIR", tmp_path / "output", *EXACT_OPTIONS),
    )
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert not (tmp_path / "losses.json").exists()


@pytest.mark.parametrize("flag", ["--num-gpus", "--num-machines"])
def test_two_ways_to_start_ranks(monkeypatch, flag):
    class OnlyRank:
        def let_first_speak(self):
            pass

    monkeypatch.setattr(Rank, "from_environment", OnlyRank)
    with pytest.raises(SystemExit, match="has started this process: leave out --num-gpus and --num-machines"):
        train_net.run(parse(flag, 2))


def test_fewer_gpus_than_ranks(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        ValueError, match="has started 4 processes on this machine, which has 2 GPUs: ask for"
    ):
        _take_gpu()


def test_without_torchrun_there_is_no_rank(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert Rank.from_environment() is None


def test_the_first_rank_that_fails_speaks(monkeypatch):
    store = distributed.HashStore()
    ranks = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rendezvous", lambda *_, n=number, **__: iter([(store, n, 3)]))
        ranks.append(Rank())
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    ranks[1].let_first_speak()
    for rank in (ranks[0], ranks[2]):
        with pytest.raises(SystemExit) as ended:
            rank.let_first_speak()
        assert ended.value.code == 1


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_share_whole_batches(config, monkeypatch, size):
    """8 images in batches of 3, on more ranks than there are batches too."""
    cfg = recorded.setup(parse("--config-file", config, "TEST.IMS_PER_BATCH", 3))
    shares = []
    for rank in range(size):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: size)
        shares.append([[x["image_id"] for x in batch] for batch in build_test_loader(cfg, NAME)])
    assert [batch for share in shares for batch in share] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert max(map(len, shares)) == -(-3 // size)
