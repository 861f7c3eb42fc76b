"""Detectron2's ResNet with torchvision's dilation, for the DC5 variants."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet, build_resnet_backbone


@BACKBONE_REGISTRY.register()
def build_dilated_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """Build Detectron2's ResNet from MODEL.RESNETS; with RES5_DILATION 2 its last stage is torchvision's.

    torchvision, on which the DC5 checkpoints were trained, keeps the first block of a dilated stage at the
    dilation before it; Detectron2 dilates all blocks.
    """
    resnet = build_resnet_backbone(cfg, input_shape)
    if cfg.MODEL.RESNETS.RES5_DILATION > 1:
        first = resnet.res5[0].conv2
        first.dilation = first.padding = (1, 1)
    return resnet
