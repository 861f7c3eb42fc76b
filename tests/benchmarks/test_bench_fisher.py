"""The ways beside ours give the same sums; and the tables are made of what was measured."""

import argparse

import pytest
import torch
from torch import nn

from benchmarks import bench_fisher
from benchmarks.bench_fisher import by_backpack, by_vmap, common_problem, describe
from fisher_detr.fisher import PassSettings, estimate_fisher

BATCHES = 2


@pytest.fixture
def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double().eval()
    images, labels = torch.randn(3, 3, 6, 6).double(), torch.tensor([0, 3, 1])

    def losses(batch):
        x, y = (torch.stack(part) for part in zip(*batch, strict=True))
        return {"overall": nn.functional.cross_entropy(net(x), y, reduction="none")}

    weights = {"0": net[0].weight, "3": net[3].weight}
    batches = [list(zip(images, labels, strict=True))] * BATCHES
    fisher = estimate_fisher(losses, weights, batches, PassSettings(progress=False))
    expected = {name: 3 * BATCHES * values for name, values in fisher.diagonals["overall"].items()}
    return net, weights, images, labels, losses, batches, expected


def test_torch_func_gives_the_same(problem):
    net, weights, images, labels, *_, expected = problem
    looks = []
    found = by_vmap(net, weights, images, labels, BATCHES, lambda: looks.append(0))
    assert len(looks) == BATCHES
    for name, values in expected.items():
        torch.testing.assert_close(found[f"{name}.weight"], values)


def test_backpack_gives_the_same(problem):
    net, _, images, labels, *_, expected = problem
    found = by_backpack(net, images, labels, BATCHES, lambda: None)
    for found_values, values in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(found_values, values)


def test_curvlinops_multiplies_by_the_same_matrix(problem):
    """Its products with unit vectors would give the diagonal; one is compared with single gradients."""
    net, weights, images, labels, losses, batches, _ = problem
    found = bench_fisher.by_curvlinops(net, list(weights.values()), images, labels, BATCHES, lambda: None)
    torch.manual_seed(0)
    vector = torch.randn(len(found), dtype=torch.float64)
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(losses([sample])["overall"], weights.values())])
        for batch in batches
        for sample in batch
    ]
    torch.testing.assert_close(found, sum(g * (g @ vector) for g in gradients))


@pytest.mark.parametrize("variant", [bench_fisher.PLAIN, bench_fisher.SINGLE, "diagonal, 1 objective"])
def test_common_problems_look_after_every_batch(problem, variant):
    net, weights, _, _, losses, batches, _ = problem
    looks = []
    common_problem(net, losses, weights, batches, variant)(lambda *_: looks.append(0))
    assert len(looks) == (6 if variant == bench_fisher.SINGLE else BATCHES)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_passes_hold_as_many_pixels_as_the_engine_allows():
    assert bench_fisher.in_passes([[1, 2, 3, 4], [5]], 512) == [[1], [2], [3], [4], [5]]
    assert bench_fisher.in_passes([[1, 2, 3, 4, 5], [6]], 256) == [[1, 2, 3, 4], [5], [6]]
    assert bench_fisher.in_passes([[1, 2]], 2048) == [[1], [2]]  # one at least


def test_table_has_ratios_to_the_plain_pass():
    turns = {
        bench_fisher.PLAIN: [{"seconds": 2.0, "peak_bytes": 2**30}, {"seconds": 4.0, "peak_bytes": 2**29}],
        "diagonal, 1 objective": [{"seconds": 4.5, "peak_bytes": 2**31}] * 2,
    }
    args = argparse.Namespace(size=64, batch=4, rounds=2, steps=2)
    (table,) = describe(args, {"DETR": turns})["tables"]
    assert table["rows"] == [
        [bench_fisher.PLAIN, 3.0, 1.0, 1.0, 1.0],
        ["diagonal, 1 objective", 4.5, 1.5, 2.0, 2.0],
    ]
