"""Detectors: meta-architectures, backbones, transformer, matcher and losses."""

from fisher_detr.modeling.criterion import BoxLoss, SetCriterion, critical_losses
from fisher_detr.modeling.matcher import HungarianMatcher
from fisher_detr.modeling.meta_arch import Detr, DetrBase
from fisher_detr.modeling.small_resnet import build_small_resnet_backbone
from fisher_detr.modeling.targets import Predictions, Targets

__all__ = [
    "BoxLoss",
    "Detr",
    "DetrBase",
    "HungarianMatcher",
    "Predictions",
    "SetCriterion",
    "Targets",
    "build_small_resnet_backbone",
    "critical_losses",
]
