"""A small DETR for the tests of checkpoints and engine."""

from detectron2.config import get_cfg
from detectron2.modeling import build_model

from fisher_detr import add_fisher_detr_config

SMALL_DETR = {
    "NUM_CLASSES": 3,
    "NUM_QUERIES": 6,
    "HIDDEN_DIM": 16,
    "NHEADS": 2,
    "DIM_FEEDFORWARD": 16,
    "ENC_LAYERS": 1,
    "DEC_LAYERS": 2,
    "DROPOUT": 0.0,
    "IN_FEATURE": "res3",
}


def make_cfg(norm="BN", **detr):
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "Detr"
    cfg.MODEL.BACKBONE.NAME = "build_small_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.SMALL_RESNET.CHANNELS = (8, 16)
    cfg.MODEL.SMALL_RESNET.BLOCKS = (1, 1)
    cfg.MODEL.SMALL_RESNET.STEM_CHANNELS = 8
    cfg.MODEL.SMALL_RESNET.NORM = norm
    for key, value in (SMALL_DETR | detr).items():
        cfg.MODEL.DETR[key] = value
    return cfg


def make_detr(norm="BN", **detr):
    return build_model(make_cfg(norm, **detr))


def make_resnet_detr(depth):
    """On Detectron2's ResNet, whose names its model zoo has."""
    cfg = make_cfg(IN_FEATURE="res4")
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    return build_model(cfg)
