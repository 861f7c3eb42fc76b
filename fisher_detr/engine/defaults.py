"""From command-line arguments to a config that is ready to run."""

import argparse
import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from fisher_detr.config import add_fisher_detr_config
from fisher_detr.data import register_from_config_strings

logger = logging.getLogger(__name__)


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """Read a config and register the data sets it names.

    Args:
        config_file: a YAML file; empty: the defaults.
        overrides: alternating keys and values.

    Raises:
        KeyError: a key that does not exist.
    """
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    if config_file:
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(overrides))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s and this machine has no GPU: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    register_from_config_strings(cfg.DATASETS.REGISTER, used={*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST})
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, start logging, seed, and keep a copy of the config in OUTPUT_DIR.

    Args:
        args: of `detectron2.engine.default_argument_parser`.
    """
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="fisher_detr")
    return cfg
