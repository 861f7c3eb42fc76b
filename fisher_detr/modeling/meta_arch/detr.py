"""DETR (arXiv 2005.12872) as a Detectron2 meta-architecture."""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import nn

from fisher_detr.layers import MLP, SinePositionEncoding
from fisher_detr.modeling.meta_arch.detr_base import DetrBase
from fisher_detr.modeling.meta_arch.parts import channels_of, class_head, transformer_arguments
from fisher_detr.modeling.padding import tokens_of
from fisher_detr.modeling.targets import Predictions
from fisher_detr.modeling.transformer import Transformer


@META_ARCH_REGISTRY.register()
class Detr(DetrBase):
    """Backbone, transformer, and two heads on every query.

    Shapes: B batch, S tokens, Q queries, G query groups (1 outside training), D width, L decoder layers.
    """

    @configurable
    def __init__(self, *, transformer: Transformer, dim: int, num_queries: int, in_feature: str, **base: Any):
        """Build.

        Args:
            transformer: of width D.
            dim: D.
            num_queries: Q.
            in_feature: the backbone's feature map that feeds the encoder.
            **base: see `DetrBase`.
        """
        super().__init__(**base)
        self.in_feature = in_feature
        self.num_queries = num_queries
        self.position_encoding = SinePositionEncoding(dim)
        channels = channels_of(self.backbone, in_feature, "MODEL.DETR.IN_FEATURE")
        self.input_proj = nn.Conv2d(channels, dim, 1)
        self.query_embed = nn.Embedding(num_queries * self.query_groups, dim)
        self.transformer = transformer
        self.class_embed = class_head(dim, self.num_classes, self.criterion.classification)
        self.bbox_embed = MLP(dim, dim, 4, 3)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        """Read the keys MODEL.DETR, and what `DetrBase.from_config` reads."""
        detr = cfg.MODEL.DETR
        return super().from_config(cfg) | {
            "transformer": Transformer(**transformer_arguments(cfg)),
            "dim": detr.HIDDEN_DIM,
            "num_queries": detr.NUM_QUERIES,
            "in_feature": detr.IN_FEATURE,
        }

    def decode(self, images: ImageList) -> Predictions:
        """Predict from normalized, padded images."""
        maps = self.input_proj(self.backbone(images.tensor)[self.in_feature])  # [B, D, H, W]
        tokens, position, mask = tokens_of(images, maps, self.position_encoding)
        queries = self.query_embed.weight[: self.groups * self.num_queries]
        states = self.transformer(tokens, position, mask, queries, self.groups)  # [L, B, G Q, D]
        if not self.deep_supervision:
            states = states[-1:]
        states = states.unflatten(2, (self.groups, -1))
        return Predictions(self.class_embed(states), self.bbox_embed(states).sigmoid()).in_float32()
