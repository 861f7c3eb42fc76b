"""Detectors: meta-architectures, backbones, transformer, matcher and losses."""

from fisher_detr.modeling.classification import SigmoidClassification, SoftmaxClassification
from fisher_detr.modeling.criterion import BoxLoss, Reweighted, SetCriterion, critical_losses
from fisher_detr.modeling.dilated_resnet import build_dilated_resnet_backbone
from fisher_detr.modeling.matcher import HungarianMatcher
from fisher_detr.modeling.meta_arch import DabDetr, DeformableDetr, Detr, DetrBase
from fisher_detr.modeling.sampled_labels import LabelSampler, LabelSource
from fisher_detr.modeling.small_resnet import build_small_resnet_backbone
from fisher_detr.modeling.targets import Predictions, Targets

__all__ = [
    "BoxLoss",
    "DabDetr",
    "DeformableDetr",
    "Detr",
    "DetrBase",
    "HungarianMatcher",
    "LabelSampler",
    "LabelSource",
    "Predictions",
    "Reweighted",
    "SetCriterion",
    "SigmoidClassification",
    "SoftmaxClassification",
    "Targets",
    "build_dilated_resnet_backbone",
    "build_small_resnet_backbone",
    "critical_losses",
]
