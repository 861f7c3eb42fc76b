"""The penalty in the loss dict: when, how large, and which gradient it adds."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from fisher_detr.engine import FisherTracePenalty, PenaltySettings, prepare
from fisher_detr.engine.penalty_term import LOSS_NAME, PenaltyTerm, Reference
from fisher_detr.fisher import PenaltyMethod, SquaredNorm, TraceEstimate
from fisher_detr.layers import in_eval_mode
from fisher_detr.quantization import (
    Histogram,
    RangeMethod,
    ScaleTraining,
    activation_quantizers,
    observing,
    set_activation_ranges,
)
from tests.engine.small_net import Given, Net, make_batch, make_net, own_loss

METHODS = list(PenaltyMethod)


def attached(penalty, model):
    term = PenaltyTerm(penalty)
    term.attach(model)
    term.due = True
    return term


def test_value_is_lambda_times_the_trace_and_the_gradient_that_of_k_of_them():
    model = make_net()
    model.drop.p = 0.0
    plain = copy.deepcopy(model)
    losses = plain(make_batch())
    sum(losses.values()).backward()
    task = [p.grad for p in plain.parameters()]

    attached(Given(5.0, interval=3), model)
    found = model(make_batch())
    assert found[LOSS_NAME].item() == pytest.approx(2.0 * 5.0)
    assert {name: found[name].item() for name in losses} == {name: v.item() for name, v in losses.items()}
    sum(found.values()).backward()
    for i, (parameter, expected) in enumerate(zip(model.parameters(), task, strict=True)):
        torch.testing.assert_close(parameter.grad, expected + 3 * 2.0 * (i + 1))


def test_only_where_it_is_due_and_the_model_is_trained():
    model, penalty = make_net(), Given(5.0)
    term = attached(penalty, model)
    term.due = False
    assert LOSS_NAME not in model(make_batch())
    term.due = True
    with torch.no_grad():
        assert LOSS_NAME not in model(make_batch())
    assert isinstance(model.eval()(make_batch()), torch.Tensor)
    assert penalty.measured == []
    assert LOSS_NAME in model.train()(make_batch())
    assert penalty.measured == [3]


def test_closed_term_adds_nothing():
    model, penalty = make_net(), Given(5.0)
    term = PenaltyTerm(penalty)
    handles = term.attach(model)
    term.due = True
    handles.close()
    assert LOSS_NAME not in model(make_batch())


def test_warmup_scales_value_and_gradient():
    model = make_net()
    term = attached(Given(5.0, interval=1), model)
    term.warmup = 0.25
    found = model(make_batch())
    assert found[LOSS_NAME].item() == pytest.approx(0.25 * 2.0 * 5.0)
    (gradient,) = torch.autograd.grad(found[LOSS_NAME], [model.inner.weight])
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.25 * 2.0))


def test_normalised_by_the_mean_trace_of_the_warmup():
    """Means: 4, (4 + 8) / 2 = 6, then 6 for good."""
    model = make_net()
    term = attached(Given(4.0, 8.0, 12.0, 60.0, normalize=True), model)
    found = []
    for warmup in (1 / 3, 2 / 3, 1.0, 1.0):
        term.warmup = warmup
        found.append(model(make_batch())[LOSS_NAME].item())
    assert found == pytest.approx([2 / 3 * 4 / 4, 4 / 3 * 8 / 6, 2 * 12 / 6, 2 * 60 / 6])
    assert term.reference == Reference(6.0, 2)
    assert term.measured["fisher_trace"] == [4.0, 8.0, 12.0, 60.0]


def test_without_warmup_the_first_trace_is_the_reference():
    model = make_net()
    term = attached(Given(0.0, 4.0, 12.0, normalize=True), model)
    found = [model(make_batch())[LOSS_NAME].item() for _ in range(3)]
    assert found == pytest.approx([0.0, 2.0, 2 * 12 / 4])  # a batch without a gradient says nothing
    assert term.reference == Reference(4.0, 1)


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_clip_of_its_own_before_the_factor_k(clip_norm):
    model = make_net()
    attached(Given(5.0, interval=4, clip_norm=clip_norm), model)
    found = torch.autograd.grad(model(make_batch())[LOSS_NAME], list(model.parameters()))
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 2.0 * (i + 1))
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, 4 * parameter.grad)


def test_norm_of_its_gradient_is_told_before_it_is_clipped():
    model = make_net()
    term = attached(Given(5.0, interval=4, clip_norm=0.5), model)
    model(make_batch())
    expected = 2.0 * torch.cat([part.flatten() for part in Given.gradients(model)]).norm()
    assert term.measured["fisher_gradient_norm"] == pytest.approx([expected.item()])


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_gradient_that_is_not_finite(clip_norm):
    """It would make every parameter NaN in one step."""
    model, penalty = make_net(), Given(5.0, clip_norm=clip_norm)
    penalty.gradients = lambda model: [torch.full_like(p, float("inf")) for p in model.parameters()]
    attached(penalty, model)
    with pytest.raises(ValueError, match="gradient of the Fisher-trace penalty is not finite"):
        model(make_batch())


def test_loss_that_is_not_finite_is_told_where_the_training_has_sound_losses():
    model = make_net()
    term = attached(FisherTracePenalty(own_loss, PenaltySettings(1.0, METHODS[0])), model)
    assert LOSS_NAME in model(make_batch())
    term.penalty.loss = lambda m, b: own_loss(m, b) * float("nan")
    with pytest.raises(ValueError, match="loss of the Fisher-trace penalty is nan"):
        model(make_batch())
    with torch.no_grad():
        model.inner.weight[0, 0] = float("nan")
    losses = model(make_batch())  # the guard of the training looks at them
    assert LOSS_NAME not in losses and not torch.stack([*losses.values()]).isfinite().all()


def test_clip_of_no_gradient():
    model = make_net()
    penalty = Given(0.0, clip_norm=0.5)
    penalty.measure = lambda model, _: SquaredNorm(
        torch.tensor(0.0), tuple(map(torch.zeros_like, model.parameters()))
    )
    attached(penalty, model)
    found = torch.autograd.grad(model(make_batch())[LOSS_NAME], list(model.parameters()))
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in found)


def test_what_arrives_multiplies_what_is_told():
    model, told = make_net(), []
    term = PenaltyTerm(Given(5.0, interval=2), told.extend)
    term.attach(model)
    term.due = True
    (16.0 * model(make_batch())[LOSS_NAME]).backward()
    for (parameter, part), expected in zip(told, model.parameters(), strict=True):
        assert parameter is expected
        torch.testing.assert_close(part, expected.grad)


def test_frozen_parameters_get_nothing():
    model = make_net()
    model.inner.requires_grad_(False)
    penalty = FisherTracePenalty(own_loss, PenaltySettings(1.0))
    attached(penalty, model)
    sum(model(make_batch()).values()).backward()
    assert model.inner.weight.grad is None
    assert model.outer.weight.grad is not None


def test_checked_in_the_first_pass_on_one_image():
    model, penalty = make_net(), Given(5.0)
    term = attached(penalty, model)
    term.due = False
    model(make_batch())
    model(make_batch())
    assert penalty.checked == [1]
    assert penalty.measured == []


@pytest.mark.parametrize("method", METHODS)
def test_first_pass_may_have_no_ranges_and_records_nothing_of_the_check(method):
    """Observed is the training's pass alone, as if there were no penalty."""
    model, plain = make_net(calibrated=False), make_net(calibrated=False)
    attached(FisherTracePenalty(own_loss, PenaltySettings(1.0, method)), model).due = False
    found = {}
    for chosen, histograms in ((model, found), (plain, expected := {})):
        quantizers = activation_quantizers(chosen).values()
        with observing(chosen, histograms):
            for quantizer in quantizers:
                quantizer.mode = type(quantizer.mode).BYPASS
            torch.manual_seed(3)
            chosen(make_batch())
    assert {name: h.total for name, h in found.items()} == {name: h.total for name, h in expected.items()}
    set_activation_ranges(model, found, RangeMethod.MAX)
    set_activation_ranges(plain, expected, RangeMethod.MAX)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert isinstance(found["inner.input_quantizer"], Histogram)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("estimate", list(TraceEstimate))
def test_training_takes_no_notice_of_the_passes_of_the_penalty(method, estimate):
    """Not in its dropout, not in the statistics of its norms: here the loss is of training passes itself."""
    model, plain = make_net(), make_net()

    def loss(model, batch):
        return model(batch + make_batch(2))["loss_a"]  # batch norm needs more than one image

    attached(FisherTracePenalty(loss, PenaltySettings(1.0, method, estimate)), model)
    for chosen in (model, plain):
        torch.manual_seed(3)
        chosen.losses = chosen(make_batch())
    for name, value in plain.losses.items():
        assert torch.equal(model.losses[name], value)
    assert model.losses[LOSS_NAME] > 0
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("method", METHODS)
def test_full_precision_within_autocast(method):
    settings = PenaltySettings(1.0, method, normalize=False)
    values = []
    for lower in (False, True):
        attached(FisherTracePenalty(own_loss, settings), model := make_net(dropout=0.0))
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            losses = model(make_batch())
        sum(losses.values()).backward()
        values.append((losses[LOSS_NAME].item(), losses["loss_a"].item()))
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert values[0][0] == values[1][0]
    assert values[0][1] != values[1][1]


def test_loss_that_changes_when_it_is_repeated():
    model = make_net()
    calls = []

    def moving(model, batch):
        calls.append(1)
        return own_loss(model, batch) / len(calls)

    attached(FisherTracePenalty(moving, PenaltySettings(1.0)), model)
    with pytest.raises(
        ValueError, match=r"evaluated again, .*: a finite difference needs the same; keep moving"
    ):
        model(make_batch())
    attached(FisherTracePenalty(moving, PenaltySettings(1.0, PenaltyMethod.EXACT)), model := make_net())
    assert LOSS_NAME in model(make_batch())


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


def _sampled(x):
    grid = x.reshape(1, 1, -1, 2).tanh()
    return nn.functional.grid_sample(torch.eye(4)[None, None] * x.sum(), grid, align_corners=False).square()


def _once_in_between(x):
    return _Once.apply(x).square()


@pytest.mark.parametrize(
    "operator", [_Once.apply, _once_in_between, _sampled], ids=["at the end", "in between", "grid_sample"]
)
@pytest.mark.parametrize("due", [True, False])
def test_operator_without_a_second_derivative(operator, due):
    """Seen in the first pass, even where the penalty starts later; the finite difference needs none."""

    def loss(model, batch):
        with in_eval_mode(model):
            return operator(model(batch)).sum()

    model = make_net()
    settings = PenaltySettings(1.0, PenaltyMethod.EXACT)
    attached(FisherTracePenalty(loss, settings), model).due = due
    with pytest.raises(
        ValueError, match="without a second derivative .*take the method finite_difference"
    ) as error:
        model(make_batch())
    assert "\n" not in str(error.value)
    other = make_net()
    attached(FisherTracePenalty(loss, dataclasses.replace(settings, method=METHODS[1])), other).due = True
    assert LOSS_NAME in other(make_batch())


def test_loss_of_nothing():
    model = make_net()
    attached(FisherTracePenalty(lambda model, batch: torch.tensor(1.0), PenaltySettings(1.0)), model)
    with pytest.raises(ValueError, match="does not depend on any weight"):
        model(make_batch())


def test_model_that_gives_one_loss():
    class Single(Net):
        def forward(self, batch):
            found = super().forward(batch)
            return sum(found.values()) if self.training else found

    torch.manual_seed(0)
    model = Single()
    prepare(model, bits=4, activation_bits=0, weights=ScaleTraining.FIXED)
    attached(Given(5.0), model.train())
    with pytest.raises(
        TypeError, match=f"gives a Tensor in training, expected a dict of losses, which {LOSS_NAME}"
    ):
        model(make_batch())


def test_second_backward_pass_fails():
    """It would multiply the given gradients again."""
    model = make_net()
    attached(Given(5.0), model)
    loss = sum(model(make_batch()).values())
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()
