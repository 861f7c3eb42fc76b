"""DETR (arXiv 2005.12872) as a Detectron2 meta-architecture."""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import nn

from fisher_detr.layers import MLP, SinePositionEncoding
from fisher_detr.modeling.criterion import BoxLoss, SetCriterion
from fisher_detr.modeling.matcher import HungarianMatcher
from fisher_detr.modeling.meta_arch.detr_base import DetrBase, num_classes_of, valid_pixels
from fisher_detr.modeling.targets import Predictions
from fisher_detr.modeling.transformer import Transformer


@META_ARCH_REGISTRY.register()
class Detr(DetrBase):
    """Backbone, transformer, and two heads on every query.

    Shapes: B batch, S tokens, Q queries, G query groups (1 outside training), D width, L decoder layers.
    """

    @configurable
    def __init__(
        self,
        *,
        transformer: Transformer,
        dim: int,
        num_queries: int,
        in_feature: str,
        query_groups: int = 1,
        deep_supervision: bool = True,
        **base,
    ):
        """Build.

        Args:
            transformer: of width D.
            dim: D.
            num_queries: Q.
            in_feature: the backbone's feature map that feeds the encoder.
            query_groups: groups of queries in training (Group DETR, arXiv 2207.13085).
            deep_supervision: losses on every decoder layer.
            **base: see `DetrBase`.
        """
        super().__init__(**base)
        self.in_feature = in_feature
        self.num_queries = num_queries
        self.query_groups = query_groups
        self.deep_supervision = deep_supervision
        self.position_encoding = SinePositionEncoding(dim)
        self.input_proj = nn.Conv2d(_channels(self.backbone, in_feature), dim, 1)
        self.query_embed = nn.Embedding(num_queries * query_groups, dim)
        self.transformer = transformer
        self.class_embed = nn.Linear(dim, self.num_classes + 1)
        self.bbox_embed = MLP(dim, dim, 4, 3)

    @classmethod
    def from_config(cls, cfg):
        """Read the keys MODEL.DETR, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and CRITICAL.BOX_LOSS."""
        detr = cfg.MODEL.DETR
        matcher = HungarianMatcher(class_cost=detr.CLASS_COST, l1_cost=detr.L1_COST, giou_cost=detr.GIOU_COST)
        return {
            "backbone": build_backbone(cfg),
            "criterion": SetCriterion(
                matcher=matcher,
                class_weight=detr.CLASS_WEIGHT,
                l1_weight=detr.L1_WEIGHT,
                giou_weight=detr.GIOU_WEIGHT,
                no_object_weight=detr.NO_OBJECT_WEIGHT,
            ),
            "transformer": Transformer(
                dim=detr.HIDDEN_DIM,
                num_heads=detr.NHEADS,
                hidden_dim=detr.DIM_FEEDFORWARD,
                encoder_layers=detr.ENC_LAYERS,
                decoder_layers=detr.DEC_LAYERS,
                dropout=detr.DROPOUT,
            ),
            "dim": detr.HIDDEN_DIM,
            "num_queries": detr.NUM_QUERIES,
            "in_feature": detr.IN_FEATURE,
            "query_groups": detr.QUERY_GROUPS,
            "deep_supervision": detr.DEEP_SUPERVISION,
            "num_classes": num_classes_of(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "top_k": detr.TOP_K,
            "critical_box_loss": BoxLoss(cfg.CRITICAL.BOX_LOSS),
        }

    def decode(self, images: ImageList) -> Predictions:
        """Predict from normalized, padded images."""
        features = self.backbone(images.tensor)[self.in_feature]  # [B, C, H, W]
        valid = valid_pixels(images, features.shape[-2:])
        tokens, position = (
            x.flatten(2).transpose(1, 2) for x in (self.input_proj(features), self._positions(valid))
        )
        mask = valid.flatten(1) if _is_padded(images) else None  # [B, S]
        groups = self.query_groups if self.training else 1
        queries = self.query_embed.weight[: groups * self.num_queries]
        states = self.transformer(tokens, position, mask, queries, groups)  # [L, B, G Q, D]
        if not self.deep_supervision:
            states = states[-1:]
        states = states.unflatten(2, (groups, -1))
        return Predictions(self.class_embed(states), self.bbox_embed(states).sigmoid()).in_float32()

    def _positions(self, valid: torch.Tensor) -> torch.Tensor:
        return self.position_encoding(valid).to(self.input_proj.weight.dtype)


def _is_padded(images: ImageList) -> bool:
    """Told by the sizes, which the host knows: to ask the mask would make it wait for the GPU."""
    return any(tuple(size) != tuple(images.tensor.shape[-2:]) for size in images.image_sizes)


def _channels(backbone: Backbone, feature: str) -> int:
    shapes = backbone.output_shape()
    if feature not in shapes:
        raise ValueError(
            f"MODEL.DETR.IN_FEATURE is {feature!r}, the backbone gives {', '.join(shapes)}: "
            "name one of these, or add it to MODEL.RESNETS.OUT_FEATURES"
        )
    return shapes[feature].channels
