"""Choices of piecewise linear operators are those of the first pass, however they are written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisher_detr.layers import repeating_choices

RELUS = {
    "functional": F.relu,
    "functional in place": lambda x: F.relu(x, inplace=True),
    "functional, underscore": F.relu_,
    "torch": torch.relu,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
}
POOLS = {
    "module": nn.MaxPool2d(3, 2, 1),
    "functional": lambda x: F.max_pool2d(x, kernel_size=3, stride=2, padding=1),
    "dilated": lambda x: F.max_pool2d(x, 2, dilation=2, ceil_mode=True),
}


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values_and_gradient(function, x):
    """Of a function that may work in place, at a leaf."""
    leaf = x.clone().requires_grad_()
    values = function(leaf * 1)
    weights = torch.arange(values.numel(), dtype=x.dtype).view(values.shape)
    return values, torch.autograd.grad((values * weights).sum(), leaf)[0]


def repeated(function, first, second):
    """Of both inputs under the choices of the first, which changes nothing for the first itself."""
    with repeating_choices() as rewind:
        recorded = values_and_gradient(function, first)
        rewind()
        found = values_and_gradient(function, second)
    expected = values_and_gradient(function, first)
    assert all(torch.equal(one, other) for one, other in zip(recorded, expected, strict=True))
    return recorded, found


@pytest.mark.parametrize("name", RELUS)
def test_units_that_are_off_stay_off(name):
    first, second = random(4, 50), random(4, 50, seed=1)
    first[0, :3] = torch.tensor([0.0, -0.0, 1e-300])
    with repeating_choices() as rewind:
        recorded = values_and_gradient(RELUS[name], first)
        rewind()
        same = values_and_gradient(RELUS[name], first)
        rewind()
        found, gradient = values_and_gradient(RELUS[name], second)
    expected = values_and_gradient(torch.relu, first)
    for one, other, oracle in zip(recorded, same, expected, strict=True):
        assert torch.equal(one, oracle) and torch.equal(other, oracle)
    assert torch.equal(found, second * (first > 0))
    assert torch.equal(gradient, expected[1])
    assert not torch.equal(found, torch.relu(second))
    assert torch.equal(values_and_gradient(RELUS[name], second)[0], torch.relu(second))  # afterwards


PRELUS = {
    "module": nn.PReLU(init=0.3),
    "functional": lambda x: F.prelu(x, torch.tensor([0.3], dtype=x.dtype)),
    "method": lambda x: x.prelu(torch.tensor([0.3], dtype=x.dtype)),
    "of channels": lambda x: torch.prelu(x, torch.linspace(0.1, 0.5, 5, dtype=x.dtype)),
}


@pytest.mark.parametrize("name", PRELUS)
def test_slopes_stay_as_they_were(name):
    first, second = random(4, 5, 10), random(4, 5, 10, seed=1)
    function = nn.Module.double(PRELUS[name]) if name == "module" else PRELUS[name]
    recorded, (found, gradient) = repeated(function, first, second)
    slopes = torch.linspace(0.1, 0.5, 5, dtype=first.dtype).view(5, 1) if name == "of channels" else 0.3
    torch.testing.assert_close(found, torch.where(first <= 0, slopes * second, second), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, recorded[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [1, 5])
def test_gradient_by_slopes(channels):
    """It is that of a product wherever the unit was off, with the input of now."""
    first, second, factors = (random(4, 5, 10, seed=seed) for seed in range(3))
    slopes = torch.linspace(0.1, 0.7, channels, dtype=first.dtype).requires_grad_()
    with repeating_choices() as rewind:
        F.prelu(first, slopes)
        rewind()
        (found,) = torch.autograd.grad((F.prelu(second, slopes) * factors).sum(), slopes)
    products = torch.where(first <= 0, second * factors, 0.0)
    expected = products.sum((0, 2)) if channels == 5 else products.sum().view(1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maxima_stay_where_they_were(name, layout):
    first, second = (random(2, 3, 9, 12, seed=seed).contiguous(memory_format=layout) for seed in (0, 1))
    recorded, (found, gradient) = repeated(POOLS[name], first, second)
    assert torch.equal(gradient, recorded[1])
    assert found.stride() == recorded[0].stride()
    for image, channel, row, column in ((0, 0, 0, 0), (1, 2, 2, 3), (1, 1, 3, 4)):
        value = recorded[0][image, channel, row, column]
        place = (first[image, channel] == value).nonzero()[0].tolist()
        assert found[image, channel, row, column] == second[image, channel, place[0], place[1]]


def test_maps_without_a_batch():
    pool = POOLS["module"]
    with repeating_choices() as rewind:
        expected = pool(random(3, 8, 8))
        rewind()
        assert torch.equal(pool(random(3, 8, 8)), expected)


def test_calls_of_all_kinds_are_repeated_in_their_order():
    """What else is computed is as before, and empty tensors are welcome."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(True), nn.Conv2d(4, 2, 1))
    model = model.double()
    inputs = [random(2, 3, 8, 8), random(0, 3, 8, 8), random(1, 3, 10, 8)]
    with repeating_choices() as rewind:
        expected = [model(x) for x in inputs]
        for _ in range(2):
            rewind()
            assert all(torch.equal(model(x), y) for x, y in zip(inputs, expected, strict=True))


def test_differences_are_smooth():
    """Second differences along a line, of a network of ReLUs and a maximum, are zero with frozen choices."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU())
    model, x, direction = model.double(), random(1, 3, 16, 16), random(1, 3, 16, 16, seed=1)

    def second_difference(rewind):
        middle = model(x)
        rewind()
        ahead = model(x + direction)
        rewind()
        return (ahead + model(x - direction) - 2 * middle).abs().max()

    with repeating_choices() as rewind:
        assert second_difference(rewind) < 1e-12
    assert second_difference(lambda: None) > 0.1


def test_frozen_part_in_the_middle_is_not_run_again():
    """What it chose is skipped, so that the choices behind it are still their own."""
    frozen = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.PReLU()).double().requires_grad_(False)
    runs = []
    frozen.register_forward_hook(lambda *_: runs.append(1))
    inner = frozen[0].register_forward_hook(lambda *_: runs.append("inside"))

    def model(x, scale):
        return F.relu(frozen(F.relu(x)) * scale - 0.3)

    x, one = random(2, 3, 10), torch.ones(1, dtype=torch.float64, requires_grad=True)
    expected = model(x, one)
    runs.clear()
    with repeating_choices([frozen]) as rewind:
        recorded = model(x, one)
        for _ in range(2):
            rewind()
            again = model(x, one * 1.5)
    assert runs == ["inside", 1, 1, 1]  # hooks of the module itself see every pass
    assert torch.equal(recorded, expected)
    inner.remove()
    assert torch.equal(again > 0, expected > 0)
    torch.testing.assert_close(again[again > 0], 1.5 * (expected[expected > 0] + 0.3) - 0.3)
    assert "forward" not in vars(frozen)


def test_values_that_are_not_finite_pass():
    x = torch.tensor([float("nan"), float("inf"), -2.0, 1.0])
    with repeating_choices() as rewind:
        F.relu(x)
        rewind()
        found = F.relu(x)
    assert found[0].isnan() and found[1:].tolist() == [float("inf"), 0.0, 1.0]
    slope = torch.tensor([0.5], requires_grad=True)
    with repeating_choices() as rewind:
        F.prelu(x, slope)
        rewind()
        found = F.prelu(x, slope)
    assert found[0].isnan() and found[1:].tolist() == [float("inf"), -1.0, 1.0]


def test_pass_unlike_the_remembered_one():
    with repeating_choices() as rewind:
        F.relu(random(2, 3))
        rewind()
        with pytest.raises(RuntimeError, match=r"call 0 of a ReLU or maximum .* \(3, 2\), unlike the pass"):
            F.relu(random(3, 2))
        F.relu(random(2, 3))
        with pytest.raises(RuntimeError, match=r"call 1 .* the same images through the same layers"):
            F.relu(random(2, 3))


def test_nothing_is_left_after_an_error():
    with pytest.raises(ZeroDivisionError), repeating_choices() as rewind:
        F.relu(random(2, 3))
        rewind()
        raise ZeroDivisionError
    assert torch.equal(F.relu(random(4)), random(4).clamp(min=0))
