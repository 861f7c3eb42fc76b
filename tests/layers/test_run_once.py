"""Modules that give their first outputs again, and what makes them run."""

import pytest
import torch
from torch import nn

from fisher_detr.layers.run_once import RunOnce


class Choices:
    """A counter of calls."""

    def __init__(self):
        self.number = 0

    def count(self):
        return self.number

    def skip_to(self, count):
        self.number = count


class Module(nn.Module):
    """Counts how often it runs."""

    def __init__(self):
        super().__init__()
        self.runs, self.choices = 0, Choices()

    def forward(self, x, factor=2.0):
        self.runs += 1
        self.choices.number += 3
        return x * factor if isinstance(x, torch.Tensor) else x


class Draws(Module):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)


class Counts(Module):
    """Keeps a number of its own, as norms keep statistics."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += x.sum()
        return super().forward(x)


def begin_again(once, module, at=0):
    """The pass that repeats; the choices before the module are as many as in the first one, unless told."""
    module.choices.number = at
    once.rewind()


def twice(module, first, second, meanwhile=lambda output: None, at=0, **kwargs):
    """Outputs of two passes; between them something is done with the first one's, the second at a place."""
    module.choices.number = 0
    with RunOnce(module, module.choices) as once:
        recorded = module(first)
        meanwhile(recorded)
        begin_again(once, module, at)
        return recorded, module(second, **kwargs)


def test_the_same_input_is_not_run_again():
    module, x = Module(), torch.randn(2, 3)
    recorded, again = twice(module, x, x.clone())
    assert torch.equal(again, 2 * x) and torch.equal(recorded, 2 * x)
    assert module.runs == 1 and module.choices.number == 3  # which were skipped


@pytest.mark.parametrize("other", [torch.ones(2, 3), torch.zeros(1, 3)], ids=["values", "shape"])
def test_another_input_is_run(other):
    module = Module()
    assert torch.equal(twice(module, torch.zeros(2, 3), other)[1], 2 * other)
    assert module.runs == 2


def test_input_written_into_since_is_run():
    """The same tensor with other values, as its version tells."""
    module, x = Module(), torch.randn(2, 3)
    again = twice(module, x, x, meanwhile=lambda _: x.add_(1))[1]
    assert torch.equal(again, 2 * x) and module.runs == 2


def test_output_written_into_since_is_made_again():
    module, x = Module(), torch.randn(2, 3)
    again = twice(module, x, x, meanwhile=lambda output: output.add_(1))[1]
    assert torch.equal(again, 2 * x) and module.runs == 2


def test_named_argument_of_the_second_pass_counts():
    module, x = Module(), torch.ones(2)
    assert torch.equal(twice(module, x, x, factor=3.0)[1], 3 * x)


def test_at_another_place_it_is_run():
    """What is recorded in the order of the calls would be mixed up."""
    module, x = Module(), torch.ones(2)
    twice(module, x, x, at=5)
    assert module.runs == 2 and module.choices.number == 8


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (Module(), torch.randn(2, requires_grad=True)),
        (Module(), [torch.randn(2)]),
        (Draws(), torch.randn(2)),
        (nn.Dropout(), torch.randn(50)),
        (Counts(), torch.randn(2)),
    ],
    ids=["with gradient", "no tensor", "random numbers", "dropout", "buffer"],
)
def test_others_run_every_time(module, x):
    module.choices = getattr(module, "choices", Choices())
    runs = []
    forward = module.forward
    module.forward = lambda x: runs.append(1) or forward(x)
    twice(module, x, x)
    assert runs == [1, 1]


def test_named_argument_of_the_first_pass():
    module, x = Module(), torch.ones(2)
    with RunOnce(module, module.choices) as once:
        module(x, factor=3.0)
        begin_again(once, module)
        assert torch.equal(module(x), 2 * x)
    assert module.runs == 2


def test_one_that_is_called_more_than_once_is_run():
    """Its quantizers repeat their roundings call by call."""
    module = Module()
    inputs = [torch.full((2,), float(i)) for i in range(3)]
    with RunOnce(module, module.choices) as once:
        for x in inputs:
            module(x)
        for _ in range(2):
            begin_again(once, module)
            assert [module(x)[0].item() for x in inputs] == [0, 2, 4]
    assert module.runs == 9


@pytest.mark.parametrize("own", [False, True], ids=["of the class", "of the instance"])
def test_module_is_as_before_after_an_error(own):
    module = Module()
    if own:
        module.forward = lambda x: -x
    before = vars(module).get("forward")
    with pytest.raises(ZeroDivisionError), RunOnce(module, module.choices):
        assert vars(module)["forward"] is not before
        raise ZeroDivisionError
    assert vars(module).get("forward") is before
