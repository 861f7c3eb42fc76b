"""A trainer without any of this package's models: a small RetinaNet of Detectron2, and a loss of its user."""

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, Instances
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

NUM_CLASSES = 3
SKIP = ("head.cls_score", "head.bbox_pred")
SIDE = 64


@BACKBONE_REGISTRY.register()
def build_tiny_fpn_backbone(cfg: CfgNode, _input_shape: ShapeSpec) -> FPN:
    """Of two residual blocks, with feature maps p3 and p4."""
    stages = [[BasicBlock(8, 16, stride=2)], [BasicBlock(16, 24, stride=2)]]
    bottom_up = ResNet(BasicStem(3, 8), stages, out_features=["res2", "res3"])
    return FPN(bottom_up, ["res2", "res3"], 8)


def retinanet_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.NAME = "build_tiny_fpn_backbone"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32]]
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4"]
    cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    return cfg


def make_retinanet() -> nn.Module:
    torch.manual_seed(0)
    return build_model(retinanet_cfg())


def make_batch(seed: int, num_images: int = 2) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [_sample(generator) for _ in range(num_images)]


def loss_of_one_category(model: nn.Module, batch: list[dict]) -> Tensor:
    """The classification loss of category 1."""
    images = model.preprocess_image(batch)
    found = model.backbone(images.tensor)
    features = [found[name] for name in model.head_in_features]
    logits, _ = model.head(features)
    logits = torch.cat([permute_to_N_HWA_K(level, NUM_CLASSES) for level in logits], 1)[..., 1]
    labels, _ = model.label_anchors(model.anchor_generator(features), [x["instances"] for x in batch])
    labels = torch.stack(labels)
    counted = labels >= 0
    wanted = (labels == 1).to(logits.dtype)
    loss = sigmoid_focal_loss(logits[counted], wanted[counted], alpha=0.25, gamma=2.0, reduction="sum")
    return loss / wanted.sum().clamp(min=1)


def _sample(generator: torch.Generator) -> dict:
    corner = torch.rand(2, 2, generator=generator) * SIDE / 2
    side = 12 + torch.rand(2, 2, generator=generator) * SIDE / 4
    instances = Instances((SIDE, SIDE))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], 1))
    instances.gt_classes = torch.tensor([1, 2])
    image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances}
