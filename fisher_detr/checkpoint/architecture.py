"""Which detector a checkpoint is of, and which config builds it."""

import dataclasses
import enum
import shlex
from typing import Any

from fisher_detr.structures import ClassLoss


class Family(enum.StrEnum):
    """The three detectors, by the value of MODEL.META_ARCHITECTURE."""

    DETR = "Detr"
    DEFORMABLE = "DeformableDetr"
    DAB = "DabDetr"


_TITLES = {Family.DETR: "DETR", Family.DEFORMABLE: "Deformable DETR", Family.DAB: "DAB-DETR"}
_STEMS = {Family.DEFORMABLE: "deformable_detr_r50", Family.DAB: "dab_detr_r50", Family.DETR: "detr_r50"}
# What each original was trained with.
OFFICIAL_CLASS_LOSS = {
    Family.DETR: ClassLoss.CROSS_ENTROPY,
    Family.DEFORMABLE: ClassLoss.FOCAL,
    Family.DAB: ClassLoss.FOCAL,
}
# Depth of the ResNets by their residual blocks and whether these are bottlenecks.
_DEPTHS = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
_FEATURES = ("res3", "res4", "res5")  # what the backbone of Deformable DETR's configs gives
# What the configs that `Architecture.config` names set, of the keys that may differ from it.
_IN_CONFIGS = {
    "MODEL.DETR.ENC_LAYERS": 6,
    "MODEL.DETR.DEC_LAYERS": 6,
    "MODEL.DETR.QUERY_GROUPS": 1,
    "MODEL.DEFORMABLE_DETR.NUM_LEVELS": 4,
    "MODEL.DEFORMABLE_DETR.IN_FEATURES": _FEATURES,
    "MODEL.DAB_DETR.NUM_PATTERNS": 0,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the names and shapes in a state dict tell of the detector.

    Attributes:
        family: which of the three.
        blocks: residual blocks of the four stages of the ResNet; 0: no such stage.
        bottleneck: three convolutions in a block, not two.
        encoder_layers: depth of the encoder.
        decoder_layers: depth L of the decoder.
        levels: feature levels (Deformable DETR).
        in_features: the backbone's feature maps that feed the first levels (Deformable DETR). (): not known.
        refinement: every decoder layer has heads of its own (Deformable DETR); two-stage implies it.
        two_stage: proposals from the encoder (Deformable DETR).
        patterns: number of pattern embeddings (DAB-DETR); 0: none.
        dilation: a last stage of stride 1 with dilation (DC5). None: not known, the weights do not tell.
        class_loss: `cross_entropy`, whose last class row stands for no object, or `focal`. None: not known.
        query_groups: groups of queries in training, whose rows follow each other. None: not known, the
            weights have the rows of all groups.
    """

    family: Family
    blocks: tuple[int, ...]
    bottleneck: bool
    encoder_layers: int
    decoder_layers: int
    levels: int = 0
    in_features: tuple[str, ...] = ()
    refinement: bool = False
    two_stage: bool = False
    patterns: int = 0
    dilation: bool | None = None
    class_loss: ClassLoss | None = None
    query_groups: int | None = None

    @property
    def depth(self) -> int | None:
        """Of the ResNet; None: it is no standard one."""
        return _DEPTHS.get((self.blocks, self.bottleneck))

    @property
    def num_heads(self) -> int:
        """Stored class and box heads: Deformable DETR has one for each layer, and one for the proposals."""
        return self.decoder_layers + self.two_stage if self.family is Family.DEFORMABLE else 1

    @property
    def has_no_object(self) -> bool:
        """The last class row stands for no object; where the loss is not known, as in the original."""
        return (self.class_loss or OFFICIAL_CLASS_LOSS[self.family]) == ClassLoss.CROSS_ENTROPY

    @property
    def title(self) -> str:
        """For a person, such as "Deformable DETR with box refinement, ResNet-50"."""
        title = _TITLES[self.family]
        if self.two_stage:
            title += ", two-stage"
        elif self.refinement:
            title += " with box refinement"
        if self.levels == 1:
            title += ", single-scale"
        if self.patterns:
            title += f" with {self.patterns} patterns"
        backbone = f"ResNet-{self.depth}" if self.depth else "another backbone"
        return f"{title}, {backbone}{' DC5' if self.dilation else ''}"

    @property
    def settings(self) -> dict[str, Any]:
        """Config keys that decide whether weights fit, as far as they are known."""
        settings: dict[str, Any] = {
            "MODEL.META_ARCHITECTURE": str(self.family),
            "MODEL.DETR.ENC_LAYERS": self.encoder_layers,
            "MODEL.DETR.DEC_LAYERS": self.decoder_layers,
        }
        if self.depth:
            settings["MODEL.RESNETS.DEPTH"] = self.depth
        if self.dilation is not None:
            settings["MODEL.RESNETS.RES5_DILATION"] = 2 if self.dilation else 1
        if self.class_loss:
            settings["MODEL.DETR.CLASS_LOSS"] = str(self.class_loss)
        if self.query_groups:
            settings["MODEL.DETR.QUERY_GROUPS"] = self.query_groups
        if self.family is Family.DEFORMABLE:
            settings |= self._deformable_settings
        if self.family is Family.DAB:
            settings["MODEL.DAB_DETR.NUM_PATTERNS"] = self.patterns
        return settings

    @property
    def _deformable_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "MODEL.DEFORMABLE_DETR.NUM_LEVELS": self.levels,
            "MODEL.DEFORMABLE_DETR.BOX_REFINEMENT": self.refinement,
            "MODEL.DEFORMABLE_DETR.TWO_STAGE": self.two_stage,
        }
        if self.in_features:
            settings["MODEL.DEFORMABLE_DETR.IN_FEATURES"] = self.in_features
        return settings

    def conflicts(self, other: "Architecture") -> dict[str, Any]:
        """Settings of this one that contradict another; what either does not know is no contradiction."""
        theirs = other.settings
        if self.family is not other.family:
            return {"MODEL.META_ARCHITECTURE": str(self.family)}
        return {k: v for k, v in self.settings.items() if k in theirs and theirs[k] != v}

    def config(self, num_classes: int = 80) -> tuple[str, dict[str, Any]]:
        """The config that builds this detector, and the keys to set on its command line.

        Args:
            num_classes: 133: on COCO Panoptic, else on COCO.
        """
        panoptic = num_classes == 133 and self.family is Family.DETR
        stem, depth = _STEMS[self.family], 50
        if self.family is Family.DETR:
            depth = 101 if self.depth == 101 else 50
            stem = f"detr_r{depth}"
        if self.refinement:
            stem += "_two_stage" if self.two_stage else "_refine"
        keys = {
            key: value
            for key, value in self.settings.items()
            if key in _IN_CONFIGS and value != _IN_CONFIGS[key]
        }
        if self.depth not in (None, depth):
            keys |= self._backbone_settings
        if not set(self.in_features) <= set(_FEATURES):
            stages = (f"res{stage}" for stage, blocks in enumerate(self.blocks, 2) if blocks)
            keys["MODEL.RESNETS.OUT_FEATURES"] = tuple(stages)
        if self.dilation and self.family is Family.DETR and not panoptic:
            stem += "_dc5"
        elif self.dilation:
            keys |= {"MODEL.BACKBONE.NAME": "build_dilated_resnet_backbone", "MODEL.RESNETS.RES5_DILATION": 2}
        return f"configs/{'coco_panoptic' if panoptic else 'coco'}/{stem}.yaml", keys

    @property
    def _backbone_settings(self) -> dict[str, Any]:
        """Of a standard ResNet; those of two convolutions in a block are narrower."""
        narrow = {} if self.bottleneck else {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
        return {"MODEL.RESNETS.DEPTH": self.depth} | narrow


def spelled(settings: dict[str, Any]) -> str:
    """Settings as they are typed on a command line."""
    return " ".join(f"{key} {_typed(value)}" for key, value in settings.items())


def _typed(value: Any) -> str:
    """A value in the words of a shell; names in a tuple have double quotes, for the shell's are single."""
    if isinstance(value, tuple):
        value = "({})".format("".join(f'"{name}",' for name in value))
    return shlex.quote(str(value))
