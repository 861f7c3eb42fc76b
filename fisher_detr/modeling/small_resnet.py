"""A small ResNet for small images."""

from collections.abc import Sequence
from itertools import pairwise

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

_MAX_STAGES = 4  # what Detectron2's ResNet has names for


@BACKBONE_REGISTRY.register()
def build_small_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet of basic blocks from MODEL.SMALL_RESNET; stem and stages are all outputs.

    The stem has stride 4 as in every ResNet; each further stage halves the resolution.

    Raises:
        ValueError: the settings do not fit each other.
    """
    small = cfg.MODEL.SMALL_RESNET
    _check(small.CHANNELS, small.BLOCKS)
    stem = BasicStem(input_shape.channels, small.STEM_CHANNELS, small.NORM)
    stages, channels = [], small.STEM_CHANNELS
    for index, (width, blocks) in enumerate(zip(small.CHANNELS, small.BLOCKS, strict=True)):
        strides = [1 if index == 0 else 2, *[1] * (blocks - 1)]
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=strides,
                in_channels=channels,
                out_channels=width,
                norm=small.NORM,
            )
        )
        channels = width
    outputs = ["stem", *(f"res{index + 2}" for index in range(len(stages)))]
    return ResNet(stem, stages, out_features=outputs, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _check(channels: Sequence[int], blocks: Sequence[int]) -> None:
    if not 1 <= len(channels) <= _MAX_STAGES:
        raise ValueError(
            f"MODEL.SMALL_RESNET.CHANNELS has {len(channels)} stages: Detectron2's ResNet has 1 to "
            f"{_MAX_STAGES}, res2 to res5"
        )
    if len(channels) != len(blocks):
        raise ValueError(
            f"MODEL.SMALL_RESNET.CHANNELS has {len(channels)} stages and BLOCKS {len(blocks)}: "
            "give both one entry for each stage"
        )
    if any(before == after for before, after in pairwise(channels)):
        raise ValueError(
            f"MODEL.SMALL_RESNET.CHANNELS is {tuple(channels)}: give each stage another width than the one "
            "before (Detectron2's block halves the resolution of its shortcut only where the width changes)"
        )
