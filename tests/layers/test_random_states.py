"""The same is drawn again."""

import pytest
import torch

from fisher_detr.layers import random_states, set_random_states


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")),
    ],
)
def test_drawn_again(device):
    states = random_states()
    first = torch.rand(5, device=device)
    assert not torch.equal(torch.rand(5, device=device), first)
    set_random_states(states)
    assert torch.equal(torch.rand(5, device=device), first)
