"""Ranges of activations: the histogram, the choice of the range, the passes over a model."""

import pytest
import torch

from fisher_detr.quantization import (
    ActivationQuantizer,
    calibrate_activations,
    calibrate_weights,
    fake_quantize,
    observe_activations,
    quantize_model,
    set_activation_ranges,
)
from fisher_detr.quantization.histogram import BINS, Histogram
from fisher_detr.quantization.ranges import RangeMethod, activation_range
from fisher_detr.structures import QuantSpec, ScaleMethod
from tests.quantization.models import images, toy_detector

AFFINE = QuantSpec(8, symmetric=False, per_channel=False)


def histogram_of(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def squared_error(x, low, high, spec):
    quantizer = ActivationQuantizer(spec)
    quantizer.set_range(low, high)
    return (fake_quantize(x, quantizer.scale, spec, quantizer.zero_point) - x).double().square().sum().item()


def test_histogram_counts_every_value():
    x = torch.cat([torch.randn(1000), torch.zeros(50), torch.tensor([1e-20, -7.9, 300.0])])
    histogram = histogram_of(*x.split(100))
    assert (histogram.total, histogram.zeros, histogram.reach) == (1053, 50, 512.0)
    assert (histogram.low, histogram.high) == (x.min().item(), x.max().item())
    edges = torch.linspace(-512, 512, BINS + 1, dtype=torch.float64)
    expected = torch.histogram(x[x != 0].double(), edges).hist
    assert torch.equal(histogram.counts.double(), expected)


def test_histogram_does_not_depend_on_the_order():
    batches = [torch.randn(200) * scale for scale in (0.01, 5.0, 0.3)]
    first, second = histogram_of(*batches), histogram_of(*batches[::-1])
    assert torch.equal(first.counts, second.counts) and first.reach == second.reach


def test_histogram_of_nothing_and_of_values_that_are_not_finite():
    histogram = histogram_of(torch.empty(0, 3), torch.zeros(4))
    for method in RangeMethod:
        assert activation_range(histogram, AFFINE, method) == (0.0, 0.0)
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="not finite"):
            histogram.update(torch.tensor([1.0, value]))


@pytest.mark.parametrize("relu", [True, False])
def test_percentile_range(relu):
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 3 + 1
    x = x.relu() if relu else x
    low, high = activation_range(histogram_of(x), AFFINE, RangeMethod.PERCENTILE, 99.0)
    width = 2 * histogram_of(x).reach / BINS
    assert high == pytest.approx(torch.quantile(x, 0.99).item(), abs=2 * width)
    assert low == pytest.approx(min(torch.quantile(x, 0.01).item(), 0.0), abs=2 * width)
    assert activation_range(histogram_of(x), AFFINE, RangeMethod.PERCENTILE, 100.0) == (
        pytest.approx((min(x.min().item(), 0), x.max().item()))
    )
    with pytest.raises(ValueError, match="percentile"):
        activation_range(histogram_of(x), AFFINE, RangeMethod.PERCENTILE, 0.9999)


DISTRIBUTIONS = {
    "normal": lambda x: x,
    "relu": lambda x: x.relu(),
    "outliers": lambda x: torch.cat([x, torch.tensor([-30.0, 60.0])]),
    "skewed": lambda x: (1.2 * x).exp() - 0.5,
    "negative": lambda x: -x.square(),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [4, 8])
def test_least_error_range_is_close_to_brute_force(name, bits):
    spec = QuantSpec(bits, symmetric=False, per_channel=False)
    x = DISTRIBUTIONS[name](torch.randn(2000, generator=torch.Generator().manual_seed(0)))
    histogram = histogram_of(x)
    found = squared_error(x, *activation_range(histogram, spec, RangeMethod.MSE), spec)
    factors = torch.logspace(-1.5, 0, 24).tolist()
    lows = {histogram.low * factor for factor in factors}
    highs = {histogram.high * factor for factor in factors}
    best = min(squared_error(x, low, high, spec) for low in lows for high in highs)
    assert found <= 1.05 * best
    assert found <= 1.001 * squared_error(x, histogram.low, histogram.high, spec)


@pytest.mark.parametrize("quantized_weights", [True, False])
def test_observed_ranges_are_those_of_the_inputs(quantized_weights):
    model = toy_detector()
    quantize_model(model, bits=2, skip=["class_embed"], attention_products=True)
    reference = toy_detector()
    if quantized_weights:
        layers = dict(model.named_modules())
        for name, module in reference.named_modules():
            if hasattr(layers[name], "weight_quantizer"):
                module.weight.data = layers[name].weight_quantizer(layers[name].weight).data
    inputs = {}
    for name, module in reference.named_modules():
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args))
    batches = [images(seed=1), images(seed=2)]
    for batch in batches:
        reference(batch)
    histograms = observe_activations(model, batches, quantized_weights=quantized_weights)
    for name in ("backbone.stem.conv1", "backbone.res3.0.conv2", "attention.q_proj"):
        values = torch.cat([args[0] for args in inputs[name]])
        histogram = histograms[f"{name}.input_quantizer"]
        assert histogram.total == values.numel()
        bounds = (min(values.min().item(), 0.0), values.max().item())
        assert (histogram.low, histogram.high) == pytest.approx(bounds, rel=1e-5)
    keys = torch.cat([args[1] for args in inputs["attention.products"]])
    assert histograms["attention.products.key_quantizer"].high == pytest.approx(keys.max().item(), rel=1e-5)


def test_calibration_is_deterministic_and_leaves_no_trace():
    models = [toy_detector().train() for _ in range(2)]
    for model in models:
        quantize_model(model, bits=4)
        model.norm.eval()
        calibrate_activations(model, iter([images()]), RangeMethod.MSE)
        assert model.training and not model.norm.training
        assert not any(module._forward_pre_hooks for module in model.modules())
    assert str(models[0].state_dict()) == str(models[1].state_dict())
    assert torch.equal(models[0].eval()(images()), models[1].eval()(images()))
    assert models[0](images()).requires_grad


def test_histograms_of_float_weights_serve_every_width():
    first, second = toy_detector(), toy_detector()
    quantize_model(first, bits=2)
    quantize_model(second, bits=8)
    histograms = observe_activations(first, [images()], quantized_weights=False)
    set_activation_ranges(second, histograms)
    calibrate_activations(first, [images()], quantized_weights=False)
    name = "attention.out_proj.input_quantizer"
    assert torch.equal(first.get_buffer(f"{name}.scale"), second.get_buffer(f"{name}.scale"))


def test_forward_of_the_caller_is_used():
    model = toy_detector()
    quantize_model(model, bits=8)
    calibrate_activations(model, [{"image": images()}], forward=lambda batch: model(batch["image"]))
    assert model(images()).shape == (2, 5, 7)


def test_bad_calibration_data(caplog):
    model = toy_detector()
    quantize_model(model, bits=8)
    with pytest.raises(ValueError, match="no batches"):
        calibrate_activations(model, [])
    with pytest.raises(ValueError, match="backbone.stem.conv1.input_quantizer: .*not finite"):
        calibrate_activations(model, [images() * torch.nan])
    calibrate_activations(model, [images()], forward=model.backbone)
    assert "has reached attention.q_proj.input_quantizer" in caplog.text
    with pytest.raises(RuntimeError, match="not calibrated"):
        model(images())


def test_weight_calibration_by_fisher():
    model = toy_detector()
    quantize_model(model, bits=3)
    fisher = {"attention.q_proj": torch.ones(16, 16)}
    with pytest.raises(ValueError, match="needs the Fisher diagonal of backbone.stem.conv1, "):
        calibrate_weights(model, ScaleMethod.FISHER, fisher)
    model.class_embed.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="class_embed: .*not finite"):
        calibrate_weights(model)
