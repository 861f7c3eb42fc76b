"""A loss that is evaluated twice, by itself; test_trace_penalty.py has it within the penalty."""

import contextlib

import pytest
import torch

from fisher_detr.engine.repeatable_loss import NotFiniteError, RepeatableBatchLoss
from fisher_detr.quantization import activation_quantizers
from tests.engine.small_net import make_batch, make_net


class Broken:
    """Its context fails when it is entered."""

    def __call__(self, model, batch):
        return torch.tensor(1.0)

    @contextlib.contextmanager
    def repeating(self, model):
        assert any(x.tape is not None for x in activation_quantizers(model).values()), "entered last"
        raise ZeroDivisionError
        yield


def test_nothing_is_left_where_a_context_fails():
    model = make_net()
    frozen = next(model.children()).requires_grad_(False)
    with pytest.raises(ZeroDivisionError), RepeatableBatchLoss(Broken(), model, make_batch(), True):
        pass
    assert all(quantizer.tape is None for quantizer in activation_quantizers(model).values())
    assert "forward" not in vars(frozen)
    assert not torch.overrides._get_current_function_mode_stack()


def test_random_numbers_are_repeated():
    def drawn(model, batch):
        return torch.rand(())

    with RepeatableBatchLoss(drawn, make_net(), make_batch(), True) as loss:
        first = loss()
        torch.rand(3)
        assert torch.equal(loss.again(), first) and not torch.equal(loss(), first)


@pytest.mark.parametrize(("value", "kind"), [(float("inf"), NotFiniteError), ([1.0, 2.0], ValueError)])
def test_loss_that_is_no_finite_scalar(value, kind):
    loss = RepeatableBatchLoss(lambda m, b: torch.tensor(value), make_net(), make_batch(), False)
    with loss, pytest.raises(kind, match="expected a finite scalar"):
        loss()
