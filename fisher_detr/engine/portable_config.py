"""A config that goes with a model's file to other machines."""

from detectron2.config import CfgNode


def portable_config(cfg: CfgNode) -> str:
    """The config as YAML, without paths of the machine that the run was on."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = "output"
    cfg.MODEL.WEIGHTS = cfg.MODEL.BACKBONE.WEIGHTS = cfg.QUANT.QAT.DISTILL.TEACHER = ""
    return cfg.dump()
