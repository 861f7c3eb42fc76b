"""Post-training quantization of every detector by the same code."""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model

from fisher_detr.engine import PostTrainingQuantizer
from fisher_detr.engine.quant_settings import QuantSettings
from fisher_detr.layers import MSDeformAttn, MultiheadAttention
from fisher_detr.structures import Arm, CategorySet, ScaleMethod
from tests.modeling.detectors import NUM_CLASSES, VARIANTS, make_cfg, make_input

CRITICAL = CategorySet("critical", (1, 3), NUM_CLASSES)
HEADS = ("class_embed", "bbox_embed")
SMALL = {
    "BACKBONE.NAME": "build_small_resnet_backbone",
    "SMALL_RESNET.CHANNELS": (8, 16, 32),
    "SMALL_RESNET.BLOCKS": (1, 1, 1),
    "SMALL_RESNET.STEM_CHANNELS": 8,
    "DETR.IN_FEATURE": "res4",
    "DEFORMABLE_DETR.IN_FEATURES": ("res3", "res4"),
    "DEFORMABLE_DETR.NUM_LEVELS": 3,
}


@pytest.fixture(scope="module", params=VARIANTS)
def quantizer(request):
    torch.manual_seed(0)
    samples = [make_input(64, 96, 3, seed) | {"image_id": seed} for seed in range(2)]
    cfg = make_cfg({**VARIANTS[request.param].settings, **SMALL})
    cfg.ALLOCATION.WIDTHS = (2, 4, 8)
    settings = dataclasses.replace(QuantSettings.from_config(cfg), scale=ScaleMethod.MAX)
    return PostTrainingQuantizer(build_model(cfg), samples, settings, CRITICAL)


def test_every_arm_fits_its_bytes_and_detects(quantizer):
    budget = quantizer.allocate(Arm.UNIFORM, 4.0).size_bytes
    for arm in Arm:
        allocation = quantizer.allocate(arm, 4.0)
        assert allocation.size_bytes <= budget
        quantized = quantizer.quantize(allocation, arm)
        with torch.no_grad():
            (found,) = quantized.model(quantizer.samples[:1])
        assert torch.isfinite(found["queries"].logits).all()


def test_every_projection_has_a_width_and_a_gradient(quantizer):
    """Attention's projections of every kind; only the heads and embeddings stay in full precision."""
    names = set(quantizer.weights)
    for name, module in quantizer.model.named_modules():
        if isinstance(module, MultiheadAttention | MSDeformAttn):
            projections = [child for child, x in module.named_children() if hasattr(x, "weight")]
            assert {f"{name}.{child}" for child in projections} <= names
    assert not [name for name in names if name.startswith(HEADS)]
    fisher = quantizer.estimator.fisher.combined(quantizer.objective(Arm.FISHER_CRITICAL))
    dead = [name for name, values in fisher.items() if not values.any()]
    assert not [name for name in dead if not name.startswith("transformer.decoder.0.")]
    # Queries that start at 0 leave the first layer's content without a say, and their self-attention.
    parts = ("self_attn.", "cross_attn.q_content_proj")
    assert not [name for name in dead if not name.removeprefix("transformer.decoder.0.").startswith(parts)]


def test_coverage_says_why_a_weight_is_not_quantized(quantizer):
    quantized = quantizer.quantize(quantizer.allocate(Arm.UNIFORM, 4.0), Arm.UNIFORM)
    left = [weight for weight in quantized.coverage.weights if weight.reason and len(weight.shape) > 1]
    kinds = {"embedding", "no counterpart for DeformableTransformer"}  # the latter: level_embed
    assert {weight.reason for weight in left} <= kinds | {f"skipped: {head}" for head in HEADS}
    counted = [weight.name for weight in quantized.coverage.weights]
    assert len(counted) == len(set(counted))
