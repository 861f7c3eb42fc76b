"""Under DistributedDataParallel the hook trains what one process trains: scales, ranges, penalty."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine import two_ranks

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("two_ranks") / "found.pth"
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, two_ranks.__file__, str(path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("case", two_ranks.CASES)
def test_two_ranks_equal_one(found, case):
    one, (two, other) = found["one"][case], [of_rank[case] for of_rank in found["ranks"]]
    for name, expected in one["losses"].items():
        np.testing.assert_allclose(two["losses"][name], expected, rtol=1e-7, err_msg=name)
    assert [iteration for iteration, _ in two["losses"]["fisher_trace"]] == [2, 4]
    for name, expected in one["model"].items():
        torch.testing.assert_close(two["model"][name], expected, rtol=1e-7, atol=1e-8, msg=name)
        assert torch.equal(two["model"][name], other["model"][name]), name


def test_model_that_is_wrapped_already(found):
    for of_rank in found["ranks"]:
        assert of_rank["refusal"].startswith("prepare(model) comes before DistributedDataParallel")
