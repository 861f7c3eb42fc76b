"""DAB-DETR (arXiv 2201.12329) as a Detectron2 meta-architecture."""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from fisher_detr.layers import MLP, SinePositionEncoding
from fisher_detr.modeling.dab_transformer import DabTransformer
from fisher_detr.modeling.meta_arch.detr_base import DetrBase
from fisher_detr.modeling.meta_arch.parts import channels_of, class_head, transformer_arguments
from fisher_detr.modeling.padding import tokens_of
from fisher_detr.modeling.targets import Predictions


@META_ARCH_REGISTRY.register()
class DabDetr(DetrBase):
    """DETR whose queries are anchor boxes, refined layer by layer.

    Shapes: B batch, S tokens, A anchors, P patterns (1 where there are none), Q = P A queries, G query groups
    (1 outside training), D width, L decoder layers.
    """

    @configurable
    def __init__(
        self,
        *,
        transformer: DabTransformer,
        dim: int,
        num_queries: int,
        num_patterns: int,
        in_feature: str,
        temperature: float = 20.0,
        **base: Any,
    ):
        """Build.

        Args:
            transformer: of width D.
            dim: D.
            num_queries: A.
            num_patterns: contents that every anchor is combined with; 0: one, which is zero.
            in_feature: the backbone's feature map that feeds the encoder.
            temperature: of the tokens' position encoding.
            **base: see `DetrBase`.
        """
        super().__init__(**base)
        self.in_feature = in_feature
        self.num_anchors = num_queries
        self.position_encoding = SinePositionEncoding(dim, temperature)
        channels = channels_of(self.backbone, in_feature, "MODEL.DETR.IN_FEATURE")
        self.input_proj = nn.Conv2d(channels, dim, 1)
        self.refpoint_embed = nn.Embedding(num_queries * self.query_groups, 4)  # before the sigmoid
        self.patterns = nn.Embedding(num_patterns, dim) if num_patterns else None
        self.transformer = transformer
        self.class_embed = class_head(dim, self.num_classes, self.criterion.classification)
        self.bbox_embed = MLP(dim, dim, 4, 3)
        self.bbox_embed.zero_last()
        if self.patterns is not None:
            nn.init.xavier_uniform_(self.patterns.weight)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        """Read the keys MODEL.DAB_DETR, MODEL.DETR, and what `DetrBase.from_config` reads."""
        detr = cfg.MODEL.DETR
        return super().from_config(cfg) | {
            "transformer": DabTransformer(**transformer_arguments(cfg, activation=nn.PReLU)),
            "dim": detr.HIDDEN_DIM,
            "num_queries": detr.NUM_QUERIES,
            "in_feature": detr.IN_FEATURE,
            "num_patterns": cfg.MODEL.DAB_DETR.NUM_PATTERNS,
            "temperature": cfg.MODEL.DAB_DETR.TEMPERATURE,
        }

    def decode(self, images: ImageList) -> Predictions:
        """Predict from normalized, padded images."""
        maps = self.input_proj(self.backbone(images.tensor)[self.in_feature])  # [B, D, H, W]
        tokens, position, mask = tokens_of(images, maps, self.position_encoding)
        queries, anchors = self._queries(tokens.shape[0])
        states, boxes = self.transformer(
            tokens, position, mask, queries, anchors, self.bbox_embed, self.groups, self.deep_supervision
        )  # [L or 1, B, G Q, .]
        states, boxes = (x.unflatten(2, (self.groups, -1)) for x in (states, boxes))
        return Predictions(self.class_embed(states), boxes).in_float32()

    def _queries(self, batch: int) -> tuple[Tensor, Tensor]:
        """Contents [B, G Q, D] and anchors [B, G Q, 4], pattern after pattern within a group."""
        anchors = self.refpoint_embed.weight[: self.groups * self.num_anchors].sigmoid()
        anchors = anchors.unflatten(0, (self.groups, 1, -1))  # [G, 1, A, 4]
        contents = self.input_proj.bias.new_zeros(1, self.input_proj.out_channels)
        if self.patterns is not None:
            contents = self.patterns.weight
        contents = contents[None, :, None].expand(self.groups, -1, self.num_anchors, -1)  # [G, P, A, D]
        anchors = anchors.expand(-1, contents.shape[1], -1, -1)
        return tuple(x.flatten(0, 2).expand(batch, -1, -1) for x in (contents, anchors))
