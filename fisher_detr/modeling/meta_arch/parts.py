"""What meta-architectures are built of, from the config."""

from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.modeling import Backbone
from torch import nn

from fisher_detr.modeling.blocks import LayerSpec
from fisher_detr.modeling.classification import (
    Classification,
    SigmoidClassification,
    SoftmaxClassification,
)
from fisher_detr.structures import ClassLoss


def channels_of(backbone: Backbone, feature: str, key: str) -> int:
    """Channels of a feature map of the backbone.

    Raises:
        ValueError: the backbone does not give it; `key` is the setting that asks for it.
    """
    shapes = backbone.output_shape()
    if feature not in shapes:
        raise ValueError(
            f"{key} is {feature!r}, the backbone gives {', '.join(shapes)}: "
            "name one of these, or add it to MODEL.RESNETS.OUT_FEATURES"
        )
    return shapes[feature].channels


def class_head(dim: int, num_classes: int, classification: Classification) -> nn.Linear:
    """Linear layer from states of width `dim` to the logits, with the first bias of its loss."""
    head = nn.Linear(dim, classification.num_logits(num_classes))
    bias = classification.bias()
    if bias is not None:
        nn.init.constant_(head.bias, bias)
    return head


def transformer_arguments(cfg, activation: type[nn.Module] = nn.ReLU) -> dict[str, Any]:
    """Arguments that all transformers share, from MODEL.DETR and what the architecture's paper says."""
    detr = cfg.MODEL.DETR
    return {
        "spec": LayerSpec(
            dim=detr.HIDDEN_DIM,
            num_heads=detr.NHEADS,
            hidden_dim=detr.DIM_FEEDFORWARD,
            dropout=detr.DROPOUT,
            activation=activation,
        ),
        "encoder_layers": detr.ENC_LAYERS,
        "decoder_layers": detr.DEC_LAYERS,
    }


def classification_of(detr) -> Classification:
    """The class head that MODEL.DETR asks for."""
    if ClassLoss(detr.CLASS_LOSS) is ClassLoss.FOCAL:
        return SigmoidClassification(detr.FOCAL_ALPHA, detr.FOCAL_GAMMA)
    return SoftmaxClassification(detr.NO_OBJECT_WEIGHT)


def num_classes_of(cfg) -> int:
    """Number of categories: from the config, or where that is 0 from its data sets.

    Raises:
        ValueError: neither tells.
    """
    if cfg.MODEL.DETR.NUM_CLASSES:
        return cfg.MODEL.DETR.NUM_CLASSES
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    known = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    classes = next((found for found in known if found), None)
    if classes is None:
        raise ValueError(
            f"MODEL.DETR.NUM_CLASSES is 0 and no data set of {names} has category names: set the number, or "
            "name a registered data set in DATASETS.TRAIN (DATASETS.REGISTER registers COCO-format files)"
        )
    return len(classes)
