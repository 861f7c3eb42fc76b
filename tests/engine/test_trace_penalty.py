"""The Fisher-trace penalty of whole detectors: value, gradient, and that it leaves no trace itself."""

import contextlib
import copy
import itertools

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from fisher_detr.engine import FisherTracePenalty, PenaltySettings, prepare, repeatable_loss
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.objectives import DetrObjective
from fisher_detr.engine.trace_penalty import trained
from fisher_detr.fisher import (
    GradientMethod,
    PassSettings,
    PenaltyMethod,
    TraceEstimate,
    estimate_fisher,
)
from fisher_detr.quantization import (
    FakeQuantizer,
    WeightQuantizer,
    activation_quantizers,
    bypassed,
    calibrate_activations,
    quantized_layers,
)
from fisher_detr.structures import CategorySet
from tests.engine.small_net import make_batch, make_net, own_loss
from tests.modeling.detectors import NUM_CLASSES, SMALL_BACKBONE, VARIANTS, make_cfg, make_input

EXACT, DIFFERENCE = PenaltyMethod.EXACT, PenaltyMethod.FINITE_DIFFERENCE
PEOPLE = CategorySet("people", (0, 2), NUM_CLASSES)
FLOAT = ("class_embed", "bbox_embed")
MODELS = ("detr", "dab", "deformable")
BATCH = [make_input(64, 96, 3, seed=0), make_input(48, 80, 2, seed=1)]
SINGLE = PassSettings(GradientMethod.SINGLE, progress=False)
RADIUS = 1e-6  # random weights are steep


def make_quantized(variant, dtype=torch.float64):
    """A detector at 4 bits with random biases, without which sampling points lie exactly on pixels: bends."""
    torch.manual_seed(0)
    model = build_model(make_cfg(VARIANTS[variant].settings | SMALL_BACKBONE))
    with torch.no_grad():
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            if tensor.dim() == 1 and (isinstance(tensor, nn.Parameter) or name.endswith("norm.bias")):
                tensor += 0.05 * torch.randn(tensor.shape)
    prepare(model, bits=4, skip=FLOAT)
    calibrate_activations(model.to(dtype), [BATCH])
    return model.train()


def measure(model, method=EXACT, batch=BATCH, objective=PEOPLE, **settings):
    settings = PenaltySettings(1.0, method, **({"radius": RADIUS} | settings))
    return FisherTracePenalty(DetrObjective(objective), settings).measure(model, batch)


def cosine_and_ratio(found, expected):
    found, expected = (torch.cat([part.flatten() for part in each.gradients]) for each in (found, expected))
    ratio = found.norm() / expected.norm()
    return (found @ expected / (found.norm() * expected.norm())).item(), ratio.item()


def with_quantized_leaves(model):
    """A copy in eval mode whose parameters are the quantized weights."""
    model = copy.deepcopy(model).eval()
    for layer in quantized_layers(model).values():
        layer.weight.data = layer.weight_quantizer(layer.weight).data
        layer.weight.requires_grad_()
    return model


@pytest.mark.parametrize("variant", MODELS)
@pytest.mark.parametrize("objective", ["critical", "overall"])
@pytest.mark.parametrize("prefixes", [(), ("transformer.decoder", "input_proj")], ids=["all", "some"])
def test_value_is_the_trace_of_the_fisher_information(variant, objective, prefixes):
    model = make_quantized(variant)
    plain = with_quantized_leaves(model)
    weights = {
        name: layer.weight
        for name, layer in quantized_layers(plain).items()
        if name.startswith(prefixes or "")
    }
    assert 0 < len(weights) <= len(quantized_layers(plain))
    with bypassed(plain, WeightQuantizer):
        fisher = estimate_fisher(image_losses(plain, PEOPLE), weights, [[x] for x in BATCH], SINGLE)
    expected = fisher.traces[objective].sum()
    chosen = PEOPLE if objective == "critical" else None
    for method in PenaltyMethod:
        found = measure(model, method, objective=chosen, layers=prefixes)
        assert found.value.dtype == torch.float64
        assert found.value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variant", MODELS)
def test_minibatch_is_the_squared_norm_of_the_mean_gradient(variant):
    model = make_quantized(variant)
    plain = with_quantized_leaves(model)
    with bypassed(plain, WeightQuantizer):
        loss = DetrObjective(PEOPLE)(plain, BATCH)
        weights = [layer.weight for layer in quantized_layers(plain).values()]
        gradient = torch.autograd.grad(loss, weights, materialize_grads=True)
    expected = sum(part.square().sum() for part in gradient)
    for method in PenaltyMethod:
        found = measure(model, method, estimate=TraceEstimate.MINIBATCH)
        assert found.value.item() == pytest.approx(expected.item(), rel=1e-9)
    trace = measure(model).value.item()
    assert abs(found.value.item() - trace) > 0.1 * trace, "the two estimates are the same here"


@pytest.mark.parametrize("variant", [*MODELS, "two-stage"])
@pytest.mark.parametrize("estimate", TraceEstimate)
def test_methods_agree(variant, estimate):
    model = make_quantized(variant)
    exact, found = (measure(model, method, estimate=estimate) for method in (EXACT, DIFFERENCE))
    cosine, ratio = cosine_and_ratio(found, exact)
    assert cosine > 0.9999 and ratio == pytest.approx(1.0, abs=1e-3)


def test_methods_nearly_agree_where_boxes_are_cut_off():
    """The finite difference sees how refined boxes move, the exact method does not look behind `detach`."""
    model = make_quantized("refined")
    exact = measure(model)
    found = [cosine_and_ratio(measure(model, DIFFERENCE, radius=r), exact) for r in (1e-6, 1e-7)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert 0.8 < found[1][0] < 0.99999


@pytest.mark.parametrize("variant", ["detr", "deformable"])
def test_exact_gradient_is_that_of_differences_of_the_value(variant):
    """In full precision, along a random direction of all parameters."""
    model = make_quantized(variant)
    step, generator = 1e-7, torch.Generator().manual_seed(3)
    directions = [
        torch.randn(p.shape, dtype=p.dtype, generator=generator) * p.detach().abs().mean()
        for p in trained(model)
    ]
    with bypassed(model, FakeQuantizer):
        found = measure(model, batch=BATCH[:1])
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                torch._foreach_add_(trained(model), directions, alpha=sign * step)
            values.append(measure(model, batch=BATCH[:1]).value.item())
            with torch.no_grad():
                torch._foreach_add_(trained(model), directions, alpha=-sign * step)
    expected = (values[0] - values[1]) / (2 * step)
    slope = sum((g * d).sum() for g, d in zip(found.gradients, directions, strict=True))
    assert slope.item() == pytest.approx(expected, rel=1e-4)


def test_per_image_is_the_mean_over_images():
    model = make_quantized("detr")
    both = measure(model)
    single = [measure(model, batch=[sample]) for sample in BATCH]
    torch.testing.assert_close(both.value, (single[0].value + single[1].value) / 2)
    for mean, *of_images in zip(both.gradients, *(one.gradients for one in single), strict=True):
        torch.testing.assert_close(mean, sum(of_images) / 2)


@pytest.mark.parametrize("method", PenaltyMethod)
def test_image_without_an_object(method):
    """Its queries still have to say so."""
    found = measure(make_quantized("detr"), method, batch=[make_input(96, 128, 0)])
    assert found.value > 0 and all(part.isfinite().all() for part in found.gradients)


@pytest.mark.parametrize(("variant", "of_an_image"), [("detr", 1), ("two-stage", 2)])
@pytest.mark.parametrize("method", PenaltyMethod)
def test_matching_is_repeated(variant, of_an_image, method, monkeypatch):
    """The finite difference evaluates the loss twice and matches once; proposals are matched as well."""
    model = make_quantized(variant, torch.float32)
    matcher, calls = model.criterion.matcher, []
    match = matcher.match
    monkeypatch.setattr(matcher, "match", lambda *problem: calls.append(1) or match(*problem))
    measure(model, method)
    assert len(calls) == 2 * of_an_image
    calls.clear()
    measure(model, method, estimate=TraceEstimate.MINIBATCH)
    assert len(calls) == of_an_image


def state_of(model):
    """All that a measurement could leave changed."""
    return {
        "modes": [module.training for module in model.modules()],
        "forward": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "quantizers": [
            (getattr(module, "held", None), module.tape, module.mode, module.is_observed)
            for module in model.modules()
            if isinstance(module, FakeQuantizer)
        ],
        "memory": model.criterion.matcher._memory,
        "gradients": [parameter.grad for parameter in model.parameters()],
        "requires": [parameter.requires_grad for parameter in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
    }


class Failing(DetrObjective):
    """Draws random numbers, and raises at one of its evaluations."""

    def __init__(self, fails_at):
        super().__init__(PEOPLE)
        self.fails_at, self.calls = fails_at, 0

    def __call__(self, model, batch):
        self.calls += 1
        torch.rand(3)
        loss = super().__call__(model, batch)
        if self.calls == self.fails_at:
            raise ZeroDivisionError
        return loss


@pytest.mark.parametrize("method", PenaltyMethod)
@pytest.mark.parametrize("fails_at", [None, 1, 2], ids=["succeeds", "fails at once", "fails later"])
def test_nothing_is_left_behind(method, fails_at):
    """Modes of modules, random numbers, sampling methods, held weights, tapes, gradients, the matcher."""
    model = make_quantized("deformable", torch.float32)
    model.backbone.eval()
    model.transformer.level_embed.requires_grad_(False)
    before = state_of(model)
    penalty = FisherTracePenalty(Failing(fails_at), PenaltySettings(1.0, method))
    with pytest.raises(ZeroDivisionError) if fails_at else contextlib.nullcontext():
        penalty.measure(model, BATCH)
    after = state_of(model)
    states = (before.pop("state"), after.pop("state"))
    assert after == before
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("fails", [True, False])
def test_statistics_of_norms_stay(fails):
    """A loss of a user may run the model in training mode."""
    model = make_net()

    def loss(model, batch):
        value = sum(model(batch).values())
        return value / (0 if fails else 1)

    before = {name: tensor.clone() for name, tensor in model.norm.state_dict().items()}
    settings = PenaltySettings(1.0, EXACT, TraceEstimate.MINIBATCH)
    with pytest.raises(ValueError, match="inf.*finite scalar") if fails else contextlib.nullcontext():
        FisherTracePenalty(loss, settings).measure(model, make_batch())
    assert all(torch.equal(model.norm.state_dict()[name], tensor) for name, tensor in before.items())


def test_dropout_masks_are_repeated():
    """And are others in the next measurement of a training that draws numbers in between."""
    model = make_net().double()

    def loss(model, batch):
        return sum(model([{"x": sample["x"].double()} for sample in batch]).values())

    found = {}
    for method in PenaltyMethod:
        torch.manual_seed(5)
        settings = PenaltySettings(1.0, method, TraceEstimate.MINIBATCH, radius=1e-6)
        penalty = FisherTracePenalty(loss, settings)
        found[method] = penalty.measure(model, make_batch(count=8))
        again = penalty.measure(model, make_batch(count=8))
        assert torch.equal(again.value, found[method].value)  # the training has drawn nothing
        torch.rand(1)
        assert not torch.equal(penalty.measure(model, make_batch(count=8)).value, again.value)
    cosine, ratio = cosine_and_ratio(found[DIFFERENCE], found[EXACT])
    assert cosine > 0.9999 and ratio == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("method", PenaltyMethod)
def test_frozen_layers_do_not_count_and_get_no_gradient(method):
    """The trace is that of the other layers."""
    model = make_quantized("detr", torch.float32)
    expected = measure(model, method, radius=1e-3, layers=("transformer", "input_proj"))
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    found = measure(model, method, radius=1e-3)
    torch.testing.assert_close(found.value, expected.value)
    assert len(found.gradients) == len(trained(model)) < len(expected.gradients)
    assert [part.shape for part in found.gradients] == [parameter.shape for parameter in trained(model)]
    with pytest.raises(ValueError, match="no trained quantized layer of the model is at or below backbone"):
        measure(model, method, layers=("backbone",))


def test_frozen_part_is_run_once(monkeypatch):
    """The second pass of the finite difference takes its outputs, and comes to the same."""
    model = make_quantized("detr")
    frozen = model.backbone.stem, model.backbone.res2
    for part in frozen:
        part.requires_grad_(False)
    runs = []
    for module in (model.backbone.stem, model.backbone.res2):
        run = module.forward
        module.forward = lambda x, run=run: runs.append(1) or run(x)
    found = measure(model, DIFFERENCE)
    assert len(runs) == 2 * len(BATCH)
    monkeypatch.setattr(repeatable_loss, "frozen_parts", lambda model: [])
    expected = measure(model, DIFFERENCE)
    assert len(runs) == 6 * len(BATCH)
    assert torch.equal(found.value, expected.value)
    # A convolution of one image may add in another order; the division by the step enlarges the last bit.
    assert cosine_and_ratio(found, expected) == pytest.approx((1, 1), abs=1e-6)


@pytest.mark.parametrize("estimate", TraceEstimate)
@pytest.mark.parametrize("method", PenaltyMethod)
def test_loss_that_is_flat(method, estimate):
    """No image has a gradient: zeros of every parameter."""
    model = make_net()
    settings = PenaltySettings(1.0, method, estimate)
    found = FisherTracePenalty(lambda m, b: 0.0 * own_loss(m, b), settings).measure(model, make_batch())
    assert found.value.item() == 0.0
    assert [part.shape for part in found.gradients] == [parameter.shape for parameter in trained(model)]
    assert not any(part.any() for part in found.gradients)


@pytest.mark.parametrize("method", PenaltyMethod)
def test_in_full_precision_inside_autocast_and_without_gradients_around(method):
    model = make_quantized("detr", torch.float32)
    expected = measure(model, method, radius=1e-3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = measure(model, method, radius=1e-3)
    assert torch.equal(found.value, expected.value)
    assert all(torch.equal(a, b) for a, b in zip(found.gradients, expected.gradients, strict=True))


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="a name of later torch releases")
@pytest.mark.parametrize("method", PenaltyMethod)
def test_convolutions_of_a_gpu_are_not_rounded(method):
    """To 10 bits, as torch does by default: a small step would be lost."""
    conv, seen = torch.backends.cudnn.conv, []
    before = conv.fp32_precision

    def loss(model, batch):
        seen.append(conv.fp32_precision)
        return own_loss(model, batch)

    FisherTracePenalty(loss, PenaltySettings(1.0, method)).measure(make_net(), make_batch())
    assert set(seen) == {"ieee"} and conv.fp32_precision == before != "ieee"


@pytest.mark.parametrize("value", [torch.tensor(float("nan")), torch.ones(2)], ids=["nan", "vector"])
@pytest.mark.parametrize("method", PenaltyMethod)
def test_loss_that_is_no_finite_scalar(value, method):
    penalty = FisherTracePenalty(lambda model, batch: value, PenaltySettings(1.0, method))
    with pytest.raises(ValueError, match="loss of the Fisher-trace penalty is .* expected a finite scalar"):
        penalty.measure(make_net(), make_batch())


def test_layers_are_named_by_whole_parts_of_their_paths():
    model = make_quantized("detr", torch.float32)
    first = next(name for name, layer in quantized_layers(model).items() if layer.weight.requires_grad)
    for paths, count in ((("transformer.decoder",), None), ((first,), 1), ((first[:-1],), 0)):
        penalty = FisherTracePenalty(own_loss, PenaltySettings(1.0, layers=paths))
        with (
            contextlib.nullcontext()
            if count != 0
            else pytest.raises(ValueError, match="no trained quantized")
        ):
            found = penalty.layers(model)
            assert found and all(f"{name}.".startswith(f"{paths[0]}.") for name in found)
            assert len(found) == count or count is None


def test_layers_that_do_not_exist():
    with pytest.raises(
        ValueError, match="no trained quantized layer of the model is at or below neck; there are .*inp"
    ):
        measure(make_quantized("detr", torch.float32), layers=("neck",))


def test_quantizers_are_used():
    """The trace is that at the quantized weights and activations, not that of the float model."""
    model = make_quantized("detr")
    with bypassed(model, FakeQuantizer):
        in_full_precision = measure(model).value
    assert abs(measure(model).value - in_full_precision) > 0.01 * in_full_precision
    assert all(quantizer.is_calibrated for quantizer in activation_quantizers(model).values())
