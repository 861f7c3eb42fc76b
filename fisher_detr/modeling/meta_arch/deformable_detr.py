"""Deformable DETR (arXiv 2010.04159) as a Detectron2 meta-architecture."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from fisher_detr.layers import MLP, SinePositionEncoding, at_least_float32
from fisher_detr.modeling.deformable_transformer import DeformableTransformer
from fisher_detr.modeling.meta_arch.detr_base import DetrBase
from fisher_detr.modeling.meta_arch.parts import channels_of, class_head, transformer_arguments
from fisher_detr.modeling.padding import is_padded, valid_pixels
from fisher_detr.modeling.proposals import ProposalStage
from fisher_detr.modeling.pyramid import TokenPyramid
from fisher_detr.modeling.targets import Predictions

_NORM_GROUPS = 32


@META_ARCH_REGISTRY.register()
class DeformableDetr(DetrBase):
    """DETR on feature maps of several resolutions, read at a few points for each query.

    Shapes: B batch, L levels, S tokens of all levels, Q queries, G query groups (1 outside training),
    D width, N decoder layers, n categories.
    """

    @configurable
    def __init__(
        self,
        *,
        transformer: DeformableTransformer,
        dim: int,
        num_queries: int,
        in_features: Sequence[str],
        num_levels: int,
        box_refinement: bool = False,
        two_stage: bool = False,
        **base: Any,
    ):
        """Build.

        Args:
            transformer: of width D with L levels and N decoder layers.
            dim: D.
            num_queries: Q.
            in_features: the backbone's feature maps of the first levels, fine to coarse; each further level
                is a convolution of stride 2 on the one before.
            num_levels: L.
            box_refinement: a layer's boxes are the reference of the next, and each layer has its own heads.
            two_stage: queries come from the encoder's best proposals; with box refinement and one group only.
            **base: see `DetrBase`.

        Raises:
            ValueError: more features than levels, or two stages without refinement or with groups.
        """
        super().__init__(**base)
        _check(dim, in_features, num_levels, box_refinement, two_stage, self.query_groups)
        self.in_features = tuple(in_features)
        self.num_queries = num_queries
        self.box_refinement = box_refinement
        self.position_encoding = SinePositionEncoding(dim, centered=True)
        self.input_proj = self._projections(dim, num_levels)
        self.transformer = transformer
        self.class_embed, self.bbox_embed = self._heads(dim, two_stage)
        if two_stage:
            self.proposals = ProposalStage(dim, num_queries)
        else:
            self.proposals = None
            self.query_embed = nn.Embedding(num_queries * self.query_groups, 2 * dim)  # position, content
            self.reference_points = nn.Linear(dim, 2)
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        """Read the keys MODEL.DEFORMABLE_DETR, MODEL.DETR, and what `DetrBase.from_config` reads."""
        detr, deformable = cfg.MODEL.DETR, cfg.MODEL.DEFORMABLE_DETR
        return super().from_config(cfg) | {
            "transformer": DeformableTransformer(
                **transformer_arguments(cfg),
                num_levels=deformable.NUM_LEVELS,
                encoder_points=deformable.ENC_POINTS,
                decoder_points=deformable.DEC_POINTS,
            ),
            "dim": detr.HIDDEN_DIM,
            "num_queries": detr.NUM_QUERIES,
            "in_features": deformable.IN_FEATURES,
            "num_levels": deformable.NUM_LEVELS,
            "box_refinement": deformable.BOX_REFINEMENT,
            "two_stage": deformable.TWO_STAGE,
        }

    def decode(self, images: ImageList) -> Predictions:
        """Predict from normalized, padded images."""
        pyramid = self._pyramid(images)
        memory = self.transformer.encode(pyramid)
        proposals = None
        if self.proposals is None:
            position, queries = self._queries(memory.shape[0])
            reference = at_least_float32(self.reference_points(position)).sigmoid()
        else:
            found = self.proposals(memory, pyramid, self.class_embed[-1], self.bbox_embed[-1])
            queries, position, reference = found.queries, found.query_position, found.reference
            proposals = Predictions(found.logits[None, :, None], found.boxes[None, :, None])
        states, boxes = self.transformer.decode(
            queries,
            position,
            reference,
            memory,
            pyramid,
            self.bbox_embed,
            groups=self.groups,
            refine=self.box_refinement,
        )
        logits = torch.stack([head(x) for head, x in zip(self.class_embed, states, strict=False)])
        if not self.deep_supervision:
            logits, boxes = logits[-1:], boxes[-1:]
        logits, boxes = (x.unflatten(2, (self.groups, -1)) for x in (logits, boxes))
        return Predictions(logits, boxes, proposals).in_float32()

    def _pyramid(self, images: ImageList) -> TokenPyramid:
        features = self.backbone(images.tensor)
        maps = []
        for level, project in enumerate(self.input_proj):
            if level < len(self.in_features):
                maps.append(project(features[self.in_features[level]]))
            elif level == len(self.in_features):
                maps.append(project(features[self.in_features[-1]]))
            else:
                maps.append(project(maps[-1]))
        valid = [valid_pixels(images, x.shape[-2:]) for x in maps]
        positions = [
            self.position_encoding(mask).to(maps[0].dtype) + level[:, None, None]
            for mask, level in zip(valid, self.transformer.level_embed, strict=True)
        ]
        return TokenPyramid.from_maps(maps, positions, valid, is_padded(images))

    def _queries(self, batch: int) -> tuple[Tensor, Tensor]:
        """Positions and contents, [B, G Q, D] each."""
        embeddings = self.query_embed.weight[: self.groups * self.num_queries].expand(batch, -1, -1)
        return embeddings.chunk(2, dim=-1)

    def _projections(self, dim: int, num_levels: int) -> nn.ModuleList:
        key = "MODEL.DEFORMABLE_DETR.IN_FEATURES"
        channels = [channels_of(self.backbone, feature, key) for feature in self.in_features]
        convolutions = [nn.Conv2d(c, dim, 1) for c in channels]
        for level in range(len(channels), num_levels):
            below = channels[-1] if level == len(channels) else dim
            convolutions.append(nn.Conv2d(below, dim, 3, stride=2, padding=1))
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        return nn.ModuleList(nn.Sequential(c, nn.GroupNorm(_NORM_GROUPS, dim)) for c in convolutions)

    def _heads(self, dim: int, two_stage: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Class and box heads: one for all layers or, with refinement, one for each and for the proposals."""
        depth = len(self.transformer.decoder) + two_stage
        class_embed = class_head(dim, self.num_classes, self.criterion.classification)
        bbox_embed = MLP(dim, dim, 4, 3)
        bbox_embed.zero_last()
        if self.box_refinement:
            heads = [copy.deepcopy((class_embed, bbox_embed)) for _ in range(depth)]
        else:
            heads = [(class_embed, bbox_embed)] * depth
        if not two_stage:  # the first boxes are small
            nn.init.constant_(heads[0][1].layers[-1].bias[2:], -2.0)
        return nn.ModuleList(head for head, _ in heads), nn.ModuleList(head for _, head in heads)


def _check(
    dim: int, in_features: Sequence[str], num_levels: int, box_refinement: bool, two_stage: bool, groups: int
) -> None:
    if not 1 <= len(in_features) <= num_levels:
        raise ValueError(
            f"MODEL.DEFORMABLE_DETR.IN_FEATURES names {len(in_features)} feature maps and NUM_LEVELS is "
            f"{num_levels}: expected at least one feature map and at most one for each level"
        )
    if dim % _NORM_GROUPS:
        raise ValueError(
            f"MODEL.DETR.HIDDEN_DIM is {dim}: Deformable DETR normalizes {_NORM_GROUPS} groups of channels, "
            f"set it to a multiple of {_NORM_GROUPS}"
        )
    if two_stage and not box_refinement:
        raise ValueError("MODEL.DEFORMABLE_DETR.TWO_STAGE is True: set BOX_REFINEMENT to True as well")
    if two_stage and groups != 1:
        raise ValueError(
            f"MODEL.DETR.QUERY_GROUPS is {groups}: a two-stage model has one set of proposals, set it to 1"
        )
