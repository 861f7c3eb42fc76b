"""Small detectors of every architecture, transformers' counterparts, and inputs for both."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from fisher_detr import add_fisher_detr_config
from tests.oracles import hf_detectors, hf_names

NUM_CLASSES = 5
NUM_QUERIES = 10


@dataclasses.dataclass(frozen=True)
class Variant:
    """One architecture.

    Attributes:
        settings: keys below MODEL and their values.
        build_oracle: transformers' model.
        options: of the oracle.
    """

    settings: Mapping[str, Any]
    build_oracle: Callable[..., nn.Module]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


FOCAL = {"DETR.CLASS_LOSS": "focal"}
DEFORMABLE = {"META_ARCHITECTURE": "DeformableDetr", **FOCAL}
REFINED = {**DEFORMABLE, "DEFORMABLE_DETR.BOX_REFINEMENT": True}
TWO_STAGE = {**REFINED, "DEFORMABLE_DETR.TWO_STAGE": True}
DAB = {"META_ARCHITECTURE": "DabDetr", **FOCAL}

VARIANTS = {
    "detr": Variant({}, hf_detectors.build_hf_detr),
    "deformable": Variant(DEFORMABLE, hf_detectors.build_hf_deformable_detr),
    "refined": Variant(REFINED, hf_detectors.build_hf_deformable_detr, {"with_box_refine": True}),
    "two-stage": Variant(
        TWO_STAGE, hf_detectors.build_hf_deformable_detr, {"with_box_refine": True, "two_stage": True}
    ),
    "dab": Variant(DAB, hf_detectors.build_hf_dab_detr),
    "dab, patterns": Variant(
        {**DAB, "DAB_DETR.NUM_PATTERNS": 2}, hf_detectors.build_hf_dab_detr, {"num_patterns": 2}
    ),
}

# Settings of a backbone of few weights, for tests that need no official names.
SMALL_BACKBONE = {
    "BACKBONE.NAME": "build_small_resnet_backbone",
    "BACKBONE.FREEZE_AT": 0,
    "SMALL_RESNET.STEM_CHANNELS": 8,
    "SMALL_RESNET.CHANNELS": (12, 16),
    "SMALL_RESNET.BLOCKS": (1, 1),
    "SMALL_RESNET.NORM": "FrozenBN",
    "DETR.IN_FEATURE": "res3",
    "DEFORMABLE_DETR.IN_FEATURES": ("res2", "res3"),
    "DEFORMABLE_DETR.NUM_LEVELS": 3,
}


def make_cfg(settings: Mapping[str, Any] | None = None, **detr: Any):
    """Config of a small detector on a ResNet-18.

    Args:
        settings: keys below MODEL and their values, such as those of a variant.
        **detr: keys below MODEL.DETR and their values.
    """
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.META_ARCHITECTURE = "Detr"
    model.BACKBONE.NAME = "build_resnet_backbone"
    model.RESNETS.DEPTH = 18
    model.RESNETS.RES2_OUT_CHANNELS = 64
    model.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    model.PIXEL_MEAN = [123.675, 116.28, 103.53]
    model.PIXEL_STD = [58.395, 57.12, 57.375]
    small = {"NUM_CLASSES": NUM_CLASSES, "NUM_QUERIES": NUM_QUERIES, "HIDDEN_DIM": 32, "NHEADS": 4}
    small |= {"DIM_FEEDFORWARD": 64, "ENC_LAYERS": 2, "DEC_LAYERS": 2, "DROPOUT": 0.0}
    keys = {f"DETR.{key}": value for key, value in (small | detr).items()} | dict(settings or {})
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    return cfg


def make_detector(variant: str, **detr: Any) -> nn.Module:
    """The small detector of a variant, with random weights."""
    return build_model(make_cfg(VARIANTS[variant].settings, **detr))


def make_pair(variant: str) -> tuple[nn.Module, nn.Module]:
    """A detector and transformers' with the same weights, in eval mode."""
    oracle = VARIANTS[variant].build_oracle(NUM_CLASSES, queries=NUM_QUERIES, **VARIANTS[variant].options)
    model = make_detector(variant).eval()
    model.load_state_dict(hf_names.to_our_names(oracle.state_dict()), strict=True)
    return model, oracle


def make_input(height: int, width: int, num_objects: int, seed: int = 0) -> dict[str, Any]:
    """A random image with random objects, to be shown at twice its size."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_objects, 2, generator=generator) * torch.tensor([width / 2, height / 2])
    side = 5 + torch.rand(num_objects, 2, generator=generator) * torch.tensor([width / 3, height / 3])
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], 1))
    instances.gt_classes = torch.randint(0, NUM_CLASSES, (num_objects,), generator=generator)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": 2 * height, "width": 2 * width}


def feed_oracle(model: nn.Module, oracle: nn.Module, batch: list[dict]):
    """transformers' outputs for a batch, padded as ours."""
    images = model.preprocess(batch)
    mask = torch.zeros(len(batch), *images.tensor.shape[-2:], dtype=torch.int64)
    for i, (h, w) in enumerate(images.image_sizes):
        mask[i, :h, :w] = 1
    return oracle(pixel_values=images.tensor, pixel_mask=mask)


def oracle_losses(model: nn.Module, oracle: nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    """transformers' losses, without weights, on our predictions of all decoder layers."""
    config = copy.deepcopy(oracle.config)
    config.auxiliary_loss = True
    matcher = model.criterion.matcher
    costs = (matcher.class_cost, matcher.l1_cost, matcher.giou_cost)
    config.class_cost, config.bbox_cost, config.giou_cost = (int(cost) for cost in costs)
    predictions = model.decode(model.preprocess(batch))
    logits, boxes = predictions.logits[:, :, 0], predictions.boxes[:, :, 0]
    _, losses, _ = oracle.loss_function(
        logits[-1], _labels(batch), "cpu", boxes[-1], config, outputs_class=logits, outputs_coord=boxes
    )
    return {name: value for name, value in losses.items() if "cardinality" not in name}


def _labels(batch: list[dict]) -> list[dict]:
    labels = []
    for x in batch:
        height, width = x["image"].shape[-2:]
        xyxy = x["instances"].gt_boxes.tensor / torch.tensor([width, height, width, height])
        boxes = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
        labels.append({"class_labels": x["instances"].gt_classes, "boxes": boxes})
    return labels
