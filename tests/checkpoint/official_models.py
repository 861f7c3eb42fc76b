"""Models that take the official variants, with few channels; the originals' full set of names."""

from pathlib import Path

from detectron2.config import get_cfg
from detectron2.modeling import build_model

from fisher_detr import add_fisher_detr_config
from tests.oracles.official_keys import SMALL, VARIANTS, official_tensors

BASE = Path(__file__).resolve().parents[2] / "configs" / "Base-DETR.yaml"
REFINE = ["MODEL.DEFORMABLE_DETR.BOX_REFINEMENT", True]
TWO_STAGE = [*REFINE, "MODEL.DEFORMABLE_DETR.TWO_STAGE", True]
SINGLE_SCALE = ["MODEL.DEFORMABLE_DETR.NUM_LEVELS", 1, "MODEL.DEFORMABLE_DETR.IN_FEATURES", ("res5",)]
DILATED = ["MODEL.BACKBONE.NAME", "build_dilated_resnet_backbone", "MODEL.RESNETS.RES5_DILATION", 2]
SETTINGS = {
    "detr_r50_dc5": DILATED,
    "deformable_refine": REFINE,
    "deformable_two_stage": TWO_STAGE,
    "deformable_single_scale": SINGLE_SCALE,
    "dab_r50_patterns": ["MODEL.DAB_DETR.NUM_PATTERNS", 3],
    "detr_r50_panoptic": ["MODEL.DETR.NUM_CLASSES", 133],
}
# What makes a config's model as small as SMALL makes the tensors.
SMALL_SETTINGS = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", SMALL["width"]),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", SMALL["width"]),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 4 * SMALL["width"]),
    *("MODEL.DETR.HIDDEN_DIM", SMALL["dim"]),
    *("MODEL.DETR.DIM_FEEDFORWARD", SMALL["hidden"]),
    *("MODEL.DETR.NUM_QUERIES", SMALL["queries"]),
]


def small_tensors(variant, seed=0, **changes):
    """Random tensors under the official names of a variant."""
    return official_tensors(seed, **VARIANTS[variant][0] | SMALL | changes)


def small_model(variant, *overrides):
    """The model that the variant's weights fit, by its config."""
    family, depth = VARIANTS[variant][0]["family"], VARIANTS[variant][0].get("depth", 50)
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.merge_from_file(str(BASE))
    settings = ["MODEL.DEVICE", "cpu", "MODEL.DETR.NUM_CLASSES", 80, "MODEL.RESNETS.DEPTH", depth]
    if family != "detr":
        settings += ["MODEL.DETR.CLASS_LOSS", "focal"]
    if family == "deformable":
        settings += ["MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]]
    meta = {"detr": "Detr", "deformable": "DeformableDetr", "dab": "DabDetr"}[family]
    settings += ["MODEL.META_ARCHITECTURE", meta, *SMALL_SETTINGS, *SETTINGS.get(variant, ()), *overrides]
    cfg.merge_from_list(settings)
    return build_model(cfg).eval()
