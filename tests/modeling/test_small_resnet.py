"""The small ResNet: shapes, norms, freezing, and wrong settings."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn

from fisher_detr import add_fisher_detr_config


def make_cfg(**small):
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_small_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = small.pop("FREEZE_AT", 0)
    for key, value in small.items():
        cfg.MODEL.SMALL_RESNET[key] = value
    return cfg


@pytest.mark.parametrize(
    ("feature", "channels", "stride"), [("res2", 32, 4), ("res3", 64, 8), ("res4", 128, 16)]
)
def test_feature_map_is_as_announced(feature, channels, stride):
    backbone = build_backbone(make_cfg())
    found = backbone(torch.zeros(2, 3, 64, 96))
    assert found[feature].shape == (2, channels, 64 // stride, 96 // stride)
    announced = backbone.output_shape()[feature]
    assert (announced.channels, announced.stride) == (channels, stride)


def test_stages_as_configured():
    backbone = build_backbone(make_cfg(CHANNELS=(8, 16), BLOCKS=(2, 1), STEM_CHANNELS=4))
    assert [len(stage) for stage in backbone.stages] == [2, 1]
    assert backbone(torch.zeros(1, 3, 32, 32))["res3"].shape == (1, 16, 4, 4)


@pytest.mark.parametrize(("name", "kind"), [("BN", nn.BatchNorm2d), ("FrozenBN", FrozenBatchNorm2d)])
def test_norm(name, kind):
    backbone = build_backbone(make_cfg(NORM=name))
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert norms
    assert all(isinstance(norm, kind) for norm in norms)


def test_freezing_stops_at_the_stage():
    """FREEZE_AT 2 as in Detectron2: the stem and res2."""
    backbone = build_backbone(make_cfg(FREEZE_AT=2))
    trainable = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trainable == {"res3", "res4"}


def test_lists_of_different_length_are_named():
    with pytest.raises(ValueError, match="SMALL_RESNET.CHANNELS has 2 stages and BLOCKS 3"):
        build_backbone(make_cfg(CHANNELS=(8, 16)))


def test_equal_widths_are_named():
    """Detectron2's basic block would fail in the forward pass: its shortcut keeps the resolution."""
    with pytest.raises(ValueError, match=r"CHANNELS is \(8, 16, 16\): give each stage another width"):
        build_backbone(make_cfg(CHANNELS=(8, 16, 16)))


@pytest.mark.parametrize("stages", [0, 5])
def test_number_of_stages_that_detectron2_does_not_know(stages):
    """It takes a fifth stage and then has no name for it that freezing or OUT_FEATURES would find."""
    channels = tuple(8 * 2**i for i in range(stages))
    with pytest.raises(ValueError, match=f"CHANNELS has {stages} stages: .* 1 to 4, res2 to res5"):
        build_backbone(make_cfg(CHANNELS=channels, BLOCKS=(1,) * stages))
