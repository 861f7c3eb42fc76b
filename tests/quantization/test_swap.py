"""`quantize_model`: what is swapped, what is reported, what is refused, and state dicts."""

import copy
import dataclasses
import json

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from fisher_detr.layers.attention import AttentionProducts
from fisher_detr.quantization import (
    ActivationQuantizer,
    QuantConv2d,
    QuantizedLayer,
    QuantLinear,
    bypassed,
    calibrate_activations,
    calibrate_weights,
    count_macs,
    coverage_report,
    layer_infos,
    pack_weights,
    quantizable_layers,
    quantize_model,
    trace_products,
    weight_groups,
)
from fisher_detr.quantization.layers import QuantAttentionProducts
from fisher_detr.structures import BitAllocation, LayerInfo, QuantSpec, ScaleMethod
from tests.quantization.models import images, toy_detector

HEAD = ["class_embed"]


def allocation(bits):
    return BitAllocation(bits, size_bytes=1, budget_bytes=1)


def mixed_widths(model, skip=HEAD):
    return {name: 2 + index % 7 for index, name in enumerate(quantizable_layers(model, skip))}


def test_layers_infos_and_allocation_agree_on_names():
    model = toy_detector()
    infos = layer_infos(model, HEAD)
    assert infos[0] == LayerInfo("backbone.stem.conv1", 8 * 3 * 7 * 7, 8)
    assert [info.name for info in infos] == list(quantizable_layers(model, HEAD))
    assert layer_infos(model, HEAD, per_channel=False)[0].num_scales == 1
    widths = mixed_widths(model)
    report = quantize_model(model, allocation(widths), skip=HEAD)
    assert {w.name.removesuffix(".weight"): w.bits for w in report.weights if not w.reason} == widths
    assert layer_infos(model, HEAD) == infos
    assert report.quantized_bytes == sum(info.size_bytes(widths[info.name]) for info in infos)
    assert report.quantized_bytes == sum(packed.size_bytes for packed in pack_weights(model).values())


def test_report_names_everything():
    model = toy_detector()
    parameters = {name: p for name, p in model.named_parameters() if p.dim() >= 2}
    report = quantize_model(model, bits=4, skip=HEAD)
    reasons = {weight.name: weight.reason for weight in report.weights}
    assert set(parameters) <= set(reasons)
    assert reasons["class_embed.weight"] == reasons["class_embed.bias"] == "skipped: class_embed"
    assert reasons["query_embed.weight"] == "embedding" and reasons["attention.q_proj.bias"] == "bias"
    quantized = {name: p for name, p in parameters.items() if not reasons[name]}
    assert report.quantized_fraction == pytest.approx(
        sum(p.numel() for p in quantized.values()) / sum(w.numel for w in report.weights)
    )
    products = {product.name: product for product in report.products}
    assert products["backbone.res2.0.conv1"].operand_bits == (8, 4)
    assert products["attention.products[q k']"].reason == "attention products: not requested"
    assert products["class_embed"].operand_bits == (32, 32)
    for name in [*quantized, "attention.products[p v]", "embedding", report.summary()]:
        assert name in str(report)
    assert json.loads(json.dumps(report.to_json()))["average_bits"] == 4.0


@pytest.mark.parametrize("attention_products", [True, False])
def test_every_product_of_a_forward_pass_is_in_the_report(attention_products):
    model = toy_detector()
    report = quantize_model(model, bits=4, skip=HEAD, attention_products=attention_products)
    calibrate_activations(model, [images()])
    outputs = []
    traced = trace_products(model, lambda: outputs.append(model(images())))
    assert torch.equal(outputs[0], model(images()))
    assert set(traced) == {product.name.partition("[")[0] for product in report.products}
    assert [call.operator for call in traced["backbone.stem.conv1"]] == ["convolution"]
    counted = report.with_traced(traced, (32, 32))
    assert [dataclasses.replace(product, macs=None) for product in counted.products] == list(report.products)
    assert counted.bit_operations == sum(
        p.macs * p.operand_bits[0] * p.operand_bits[1] for p in counted.products
    )
    layers = {product.name: product.macs for product in counted.products}
    for name, macs in count_macs(model, lambda: model(images())).items():
        assert layers[name] == macs > 0
    assert report.bit_operations is None and counted.traced_size == (32, 32)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attention_counts_each_of_its_products_fused_or_not():
    q, k, v = torch.randn(1, 2, 5, 6), torch.randn(1, 2, 7, 6), torch.randn(1, 2, 7, 3)  # [B, H, length, d]
    spec = QuantSpec(8, symmetric=False, per_channel=False)
    model = nn.ModuleDict({"products": AttentionProducts()})
    for fused in (True, False):
        if not fused:
            QuantAttentionProducts.from_float(model["products"], spec)
        with bypassed(model, ActivationQuantizer):  # which have no range yet
            calls = trace_products(model, lambda: [model["products"](q, k, v) for _ in range(2)])
        counted = {p.name: p.macs for p in coverage_report(model, []).with_traced(calls).products}
        # Two calls; 2 heads x 5 queries x 7 keys x 6 or 3 channels.
        assert counted == {"products[q k']": 2 * 2 * 5 * 7 * 6, "products[p v]": 2 * 2 * 5 * 7 * 3}


def test_a_model_in_full_precision_has_a_report_too():
    model = toy_detector()
    report = coverage_report(model, weight_groups(model, HEAD))
    assert report.quantized == () and {w.bits for w in report.weights} == {32}
    assert report.total_bytes == sum(
        4 * tensor.numel() for name, tensor in model.state_dict().items() if not name.startswith("decoder.")
    )
    counted = report.with_traced(trace_products(model, lambda: model(images())))
    assert counted.bit_operations == 32 * 32 * sum(product.macs for product in counted.products)
    assert json.loads(json.dumps(counted.to_json()))["bit_operations"] == counted.bit_operations


def test_products_outside_of_layers_are_found():
    class Hidden(nn.Linear):
        def forward(self, x):
            return super().forward(x) @ torch.einsum("ij,kj->ik", x, x)

    model = nn.Sequential(Hidden(4, 4), nn.Softmax(-1))
    model[1].forward = lambda x: x.mT @ x
    report = quantize_model(model, bits=4)
    found = report.with_traced(trace_products(model, lambda: model(torch.randn(4, 4)))).products
    assert [(product.name, product.reason) for product in found] == [
        ("0", "no counterpart for Hidden"),
        ("1[mm]", "computed outside of layers"),
    ]


def test_bytes_of_the_whole_model():
    model = toy_detector()
    model.register_buffer("pixel_mean", torch.zeros(3), persistent=False)
    float_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    tied = model.class_embed.weight.numel() + model.class_embed.bias.numel()  # two names, one tensor
    report = quantize_model(model, bits=4, skip=HEAD)
    saved = sum(4 * weight.numel - weight.size_bytes for weight in report.quantized)
    assert report.total_bytes == float_bytes - 4 * tied - saved


def test_aliases_are_quantized_and_counted_once():
    model = toy_detector()
    report = quantize_model(model, bits=4)
    (head,) = [weight for weight in report.weights if weight.name.startswith("class_embed.w")]
    assert head.aliases == ("decoder.class_embed.weight",) and head.bits == 4
    assert model.decoder["class_embed"] is model.class_embed and isinstance(model.class_embed, QuantLinear)
    skipped = toy_detector()
    report = quantize_model(skipped, bits=4, skip=["decoder"])
    assert type(skipped.class_embed) is nn.Linear


def test_layers_that_share_a_weight_share_its_scale():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    report = quantize_model(model, bits=4)
    assert [w.name for w in report.quantized] == ["0.weight"] and len(report.products) == 2
    assert model[0].weight_quantizer is model[1].weight_quantizer
    assert model[0].input_quantizer is not model[1].input_quantizer
    assert len(pack_weights(model)) == 1
    tied = nn.ModuleDict({"embed": nn.Embedding(3, 4), "head": nn.Linear(4, 3, bias=False)})
    tied["head"].weight = tied["embed"].weight
    assert [w.reason for w in quantize_model(tied, bits=4).weights] == ["embedding"]


def test_layers_whose_forward_is_never_called_are_not_claimed():
    report = quantize_model(nn.Sequential(nn.MultiheadAttention(8, 2), nn.Conv1d(2, 2, 1)), bits=4)
    assert report.quantized == () and report.quantized_fraction == 0.0
    reasons = {weight.name: weight.reason for weight in report.weights}
    assert reasons["0.out_proj.weight"] == "no counterpart for NonDynamicallyQuantizableLinear"
    assert reasons["1.weight"] == "no counterpart for Conv1d"
    assert {p.name: p.reason for p in report.products}["0[p v]"] == "fused inside nn.MultiheadAttention"


def test_convolutions_that_a_list_refers_to_are_swapped_too():
    # Detectron2's FPN keeps its convolutions in plain lists beside the module tree.
    stages = [ResNet.make_default_stages(18, norm="FrozenBN")[0]]
    resnet = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res2"])
    assert resnet.output_shape()["res2"] == ShapeSpec(channels=64, stride=4)
    fpn = FPN(resnet, ["res2"], 16)
    quantize_model(fpn, bits=4)
    assert all(isinstance(conv, QuantConv2d) for conv in fpn.lateral_convs + fpn.output_convs)


@pytest.mark.parametrize("load_before_swap", [True, False])
@pytest.mark.parametrize("attention_products", [True, False])
def test_state_dict_of_a_calibrated_model_reproduces_it(load_before_swap, attention_products):
    options = {"skip": HEAD, "attention_products": attention_products}
    source = toy_detector(seed=0)
    float_weights = copy.deepcopy(source.state_dict())
    plan = allocation(mixed_widths(source))
    quantize_model(source, plan, scale=ScaleMethod.MSE, **options)
    calibrate_activations(source, [images()])
    assert set(float_weights) <= set(source.state_dict())
    target = toy_detector(seed=5)
    if load_before_swap:
        target.load_state_dict(float_weights)
    quantize_model(target, plan, **options)
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    assert torch.equal(target(images(3)), source(images(3)))


def test_float_weights_loaded_after_the_swap_need_calibration():
    source, target = toy_detector(seed=0), toy_detector(seed=5)
    quantize_model(target, bits=4, activation_bits=0)
    target(images())
    target.load_state_dict(source.state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="not calibrated"):
        target(images())
    calibrate_weights(target)
    quantize_model(source, bits=4, activation_bits=0)
    assert torch.equal(target(images()), source(images()))


def test_parameters_keep_their_identity_and_no_random_numbers_are_drawn():
    model = toy_detector()
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    state = torch.get_rng_state()
    quantize_model(model, bits=4)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_leaves_the_float_model_alone():
    model = toy_detector()
    expected = model(images())
    quantized = copy.deepcopy(model)
    quantize_model(quantized, bits=2)
    assert not any(isinstance(module, QuantizedLayer) for module in model.modules())
    assert torch.equal(model(images()), expected)


def test_eight_bits_are_close_and_more_bits_are_closer():
    model = toy_detector()
    expected, errors = model(images()), []
    for bits in (3, 5, 8):
        quantized = copy.deepcopy(model)
        quantize_model(quantized, bits=bits, attention_products=True)
        calibrate_activations(quantized, [images()])
        errors.append((quantized(images()) - expected).square().mean().sqrt().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05 * expected.std()


def test_runs_and_trains_under_autocast():
    model = toy_detector()
    quantize_model(model, bits=8, attention_products=True)
    calibrate_activations(model, [images()])
    expected = model(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images())
    assert (found - expected).abs().max() < 0.1 * expected.std()
    found.float().square().mean().backward()
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if name.endswith("weight"))


def refused(model, match, *args, **kwargs):
    with pytest.raises(ValueError, match=match):
        quantize_model(model, *args, **kwargs)
    assert not any(isinstance(module, QuantizedLayer) for module in model.modules())


def test_allocations_that_do_not_fit():
    model = toy_detector()
    widths = mixed_widths(model, ())
    missing, unknown = dict(widths), widths | {"backbone.res9": 4, "neck": 4}
    del missing["attention.k_proj"], missing["class_embed"]
    refused(model, "no width for attention.k_proj; it has no width for class_embed", allocation(missing))
    refused(model, "no quantizable layer backbone.res9; .* no quantizable layer neck", allocation(unknown))
    refused(model, "no quantizable layer class_embed", allocation(widths), skip=HEAD)
    refused(model, "either an allocation or", None)
    refused(model, "either an allocation or", allocation(widths), bits=4)
    refused(
        model, "attention_products quantizes activations", bits=4, activation_bits=0, attention_products=True
    )
    refused(model, "9 bits: expected 2 to 8", bits=4, activation_bits=9)
    refused(model, "has 1 bits", bits=1)
    refused(model, "Fisher diagonal of backbone.stem.conv1", bits=4, scale=ScaleMethod.FISHER)


def test_a_quantized_model_is_not_quantized_again():
    model = toy_detector()
    quantize_model(model, bits=4)
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(model, bits=3)


def test_a_skipped_path_that_does_not_exist_is_refused():
    """The layers that it was to protect would be quantized."""
    refused(toy_detector(), "no module 'clas_embed' .*near are class_embed", bits=4, skip=["clas_embed"])
    refused(toy_detector(), "no module 'x' .*near are backbone, query_embed,", bits=4, skip=["x"])
    with pytest.raises(ValueError, match="no module 'clas_embed'"):
        layer_infos(toy_detector(), ["clas_embed"])
