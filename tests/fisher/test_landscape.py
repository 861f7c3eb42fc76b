"""The loss landscape: directions, and losses whose values are known."""

import numpy as np
import pytest
import torch

from fisher_detr.fisher import displaced, explore, random_direction

STEPS = (0.1, 0.2)


@pytest.fixture
def weights():
    torch.manual_seed(0)
    conv = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    conv[1] = 0.0  # a channel that was pruned
    return {"conv": conv, "linear": 100 * torch.randn(2, 5, dtype=torch.float64)}


def quadratic(curvatures, slope=0.0):
    """Losses `offset + slope <u, 1> + curvature / 2 |u|^2` of the displacement u, one of each image."""

    def losses(displacement):
        norm = sum(float((change**2).sum()) for change in displacement.values())
        along = sum(float(change.sum()) for change in displacement.values())
        return {"overall": np.array([1.0 + slope * along + c / 2 * norm for c in curvatures])}

    return losses


def test_each_channel_is_displaced_by_its_own_norm(weights):
    direction = random_direction(weights, seed=3)
    for name, weight in weights.items():
        lengths = direction[name].flatten(1).norm(dim=1)
        assert torch.allclose(lengths, weight.flatten(1).norm(dim=1), rtol=1e-12)
    assert not direction["conv"][1].any()
    again, other = random_direction(weights, seed=3), random_direction(weights, seed=4)
    assert torch.equal(again["linear"], direction["linear"])
    assert not torch.equal(other["linear"], direction["linear"])


def test_one_seed_is_one_direction_for_every_model(weights):
    larger = {name: 2 * weight for name, weight in weights.items()}
    first, second = random_direction(weights, seed=0), random_direction(larger, seed=0)
    assert torch.allclose(second["linear"], 2 * first["linear"])


def test_a_quadratic_loss_has_its_curvature(weights):
    curvatures = (1.0, 3.0)
    found = explore(quadratic(curvatures, slope=7.0), weights, STEPS, seeds=(0, 1, 2))
    norm = sum(float((weight**2).sum()) for weight in weights.values())
    assert found.steps.tolist() == [-0.2, -0.1, 0.0, 0.1, 0.2]
    assert found.lines["overall"].shape == (3, 5)
    assert found.lines["overall"][:, 2] == pytest.approx([1.0] * 3)
    # The slope cancels between the two sides: c / 2 (step |w|)^2 is left.
    expected = np.array([[c / 2 * step**2 * norm for step in STEPS] for c in curvatures])
    assert found.rises["overall"] == pytest.approx(expected, rel=1e-9)
    rise, error = found.sharpness("overall")
    assert rise == pytest.approx(expected.mean(axis=0))
    assert error == pytest.approx(expected.std(axis=0, ddof=1) / np.sqrt(2))
    assert found.planes == {} and not len(found.plane_steps)


def test_the_plane_is_spanned_by_the_first_two_directions(weights):
    found = explore(quadratic((2.0,)), weights, STEPS, seeds=(5, 6, 7), plane_steps=(0.5,))
    first, second = random_direction(weights, 5), random_direction(weights, 6)
    for i, a in enumerate((-0.5, 0.0, 0.5)):
        for j, b in enumerate((-0.5, 0.0, 0.5)):
            norm = sum(float(((a * first[x] + b * second[x]) ** 2).sum()) for x in weights)
            assert found.planes["overall"][i, j] == pytest.approx(1.0 + norm, rel=1e-9)


def test_what_was_displaced_is_put_back_even_after_an_error(weights):
    before = {name: weight.clone() for name, weight in weights.items()}
    with pytest.raises(RuntimeError), displaced(weights, random_direction(weights, 0)):
        assert not torch.equal(weights["linear"], before["linear"])
        raise RuntimeError
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize(
    ("steps", "seeds", "plane", "message"),
    [
        ((), (0,), (), "0 steps along 1 directions: expected at least one of each"),
        ((0.1,), (), (), "1 steps along 0 directions"),
        ((0.1, -0.1), (0,), (), r"steps of the loss landscape \[-0.1\]: expected positive numbers"),
        ((0.1,), (0,), (0.1,), "needs two directions: give two seeds"),
    ],
)
def test_mistakes(weights, steps, seeds, plane, message):
    with pytest.raises(ValueError, match=message):
        explore(quadratic((1.0,)), weights, steps, seeds, plane)
