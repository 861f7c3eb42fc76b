"""The model in training and the one that is shipped agree bit for bit: weights, levels, outputs."""

import pytest
import torch

from fisher_detr.quantization import (
    ScaleTraining,
    calibrate_activations,
    fix_scales,
    fold_batch_norm,
    keep_scales_positive,
    layer_infos,
    learn_scales,
    learned_scales,
    pack_weights,
    quantize_model,
    quantized_layers,
    start_steps,
    update_weight_scales,
)
from fisher_detr.quantization.scale_training import RangeFollower
from fisher_detr.structures import BitAllocation
from tests.quantization.models import images, toy_detector

SKIP = ["class_embed"]
KINDS = {
    "lsq": (ScaleTraining.LSQ, ScaleTraining.LSQ),
    "pact": (ScaleTraining.LSQ, ScaleTraining.PACT),
    "min-max": (ScaleTraining.MINMAX, ScaleTraining.MINMAX),
}


def mixed_widths(model):
    """2 to 8 bits in turns."""
    infos = layer_infos(model, SKIP)
    bits = {info.name: 2 + index % 7 for index, info in enumerate(infos)}
    size = sum(info.size_bytes(bits[info.name]) for info in infos)
    return BitAllocation(bits, size, size)


def trained(kind, per_channel, products, steps=4):
    """A quantized model after some steps of SGD, in eval mode, and its float model before."""
    weights, activations = KINDS[kind]
    model, plain = toy_detector(), toy_detector()
    for one in (model, plain):
        fold_batch_norm(one)
    quantize_model(
        model, mixed_widths(model), per_channel=per_channel, skip=SKIP, attention_products=products
    )
    calibrate_activations(model, [0.7 * images()])
    learn_scales(model, weights, activations)
    follower = None
    if weights is ScaleTraining.LSQ:
        start_steps(model)
    else:
        follower = RangeFollower(model, momentum=0.3)
    scales = [*learned_scales(model.train())]
    others = [p for p in model.parameters() if all(p is not scale for scale in scales)]
    # A bound at which hardly anything is clipped has a gradient of next to nothing.
    groups = [{"params": others}, {"params": scales, "lr": 1e-1}] if scales else [{"params": others}]
    optimizer = torch.optim.SGD(groups, 1e-3, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        model(images(seed=step)).square().mean().backward()
        optimizer.step()
        keep_scales_positive(model)
        if follower:
            update_weight_scales(model)
            follower.update()
    return model.eval(), plain


def shipped(model, plain):
    """The float model with the packed weights of the trained one, and its quantizers of activations."""
    state = model.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    packed = pack_weights(model)
    with torch.no_grad():
        for name, weight in packed.items():
            plain.get_submodule(name).weight.copy_(weight.dequantize())
    for name, layer in quantized_layers(model).items():
        quantizer = layer.input_quantizer
        plain.get_submodule(name).register_forward_pre_hook(lambda _, x, quantizer=quantizer: quantizer(x[0]))
    return plain.eval(), packed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_training_model_equals_the_shipped_one(kind, per_channel):
    model, plain = trained(kind, per_channel, products=False)
    expected = model(images(seed=9))
    weights = {
        name: layer.weight_quantizer(layer.weight).detach() for name, layer in quantized_layers(model).items()
    }
    fix_scales(model)
    with torch.no_grad():
        assert torch.equal(model(images(seed=9)), expected)
        converted, packed = shipped(model, plain)
        assert torch.equal(converted(images(seed=9)), expected)
    allocation = mixed_widths(toy_detector())
    assert {name: weight.spec.bits for name, weight in packed.items()} == allocation.bits
    for name, weight in weights.items():
        found = packed[name].dequantize()
        assert torch.equal(found, weight) and torch.equal(found.signbit(), weight.signbit())
    assert len({value.item() for value in expected.flatten()}) > 10, "the outputs say nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_training_has_moved_what_it_should(kind):
    """Otherwise the comparison above would be one of two untrained models."""
    (before, _), (after, _) = (trained(kind, True, products=True, steps=steps) for steps in (0, 4))
    old, new = before.state_dict(), after.state_dict()
    trained_names = [name for name in new if name.endswith((".scale", "attention.q_proj.weight"))]
    moved = [name for name in trained_names if not torch.equal(old[name], new[name])]
    assert len(moved) > 0.9 * len(trained_names)


def test_checkpoint_of_a_training_loads_into_a_model_to_deploy():
    """Names and shapes are those of a model whose scales were never learned."""
    model, _ = trained("pact", True, products=True)
    deployed = toy_detector(seed=1)
    fold_batch_norm(deployed)
    quantize_model(deployed, mixed_widths(deployed), skip=SKIP, attention_products=True)
    deployed.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(deployed.eval()(images()), model(images()))
