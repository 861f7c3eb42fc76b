"""From command-line arguments to a config that is ready to run."""

import argparse
import logging
import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from fisher_detr.config import add_fisher_detr_config
from fisher_detr.data import check_dataset, complete_metadata, register_from_config_strings
from fisher_detr.engine.config_check import check_config
from fisher_detr.engine.config_merge import merge_config
from fisher_detr.engine.console import LogFile
from fisher_detr.files import write_text

logger = logging.getLogger(__name__)

SPLITS = ("TRAIN", "TEST")


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """Read a config, register the data sets it names, and check it.

    Args:
        config_file: a YAML file; empty: the defaults.
        overrides: alternating keys and values.

    Raises:
        FileNotFoundError: no such config or annotation file.
        ValueError: names all settings that are wrong, or what is wrong with the data.
    """
    return prepare(read_config(config_file, overrides))


def setup(args: argparse.Namespace) -> CfgNode:
    """Start logging to OUTPUT_DIR, seed, and get the frozen config that `load_config` would give.

    Nothing is written but the log: see `save_config`.

    Args:
        args: of `detectron2.engine.default_argument_parser`.
    """
    cfg = read_config(args.config_file, args.opts)
    start_logging(cfg.OUTPUT_DIR)
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("Arguments: %s", args)
    prepare(cfg, ("TEST",) if args.eval_only else SPLITS)
    cfg.freeze()
    logger.info("Config:\n%s", cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    return cfg


def device_type(args: argparse.Namespace) -> str:
    """Kind of the device that `setup` will choose for the model: "cuda" or "cpu"; nothing is set up yet."""
    wanted = read_config(args.config_file, args.opts).MODEL.DEVICE.partition(":")[0]
    return wanted if wanted != "cuda" or torch.cuda.is_available() else "cpu"


def prepare(cfg: CfgNode, splits: Sequence[str] = SPLITS) -> CfgNode:
    """Fit a config to this machine in place, register its data sets, read those of `splits`, and check it."""
    fit_device(cfg)
    used = {name for split in splits for name in cfg.DATASETS[split]}
    register_from_config_strings(cfg.DATASETS.REGISTER, used, cfg.DATASETS.DROP_BAD_BOXES)
    for name in sorted(used & DatasetCatalog.keys()):
        check_dataset(name)
        complete_metadata(name)
    check_config(cfg, splits)
    return cfg


def fit_device(cfg: CfgNode) -> None:
    """Choose the CPU where MODEL.DEVICE is a GPU and there is none, in place."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s and this machine has no GPU: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def start_logging(folder: str) -> None:
    """Log to the terminal and to `log.txt` in a folder, in place of what was logged to before.

    Raises:
        OSError: the folder cannot be written.
    """
    file = LogFile(folder, comm.get_rank())
    # Detectron2 remembers its calls: without this a second run in one process would log twice, or not at all.
    setup_logger.cache_clear()
    for name in ("fvcore", "detectron2", "fisher_detr"):
        for handler in [*logging.getLogger(name).handlers]:
            logging.getLogger(name).removeHandler(handler)
            if isinstance(handler, LogFile):
                handler.close()
        setup_logger(None, comm.get_rank(), name=name).addHandler(file)


def save_config(cfg: CfgNode, name: str = "config.yaml") -> None:
    """Keep the config in OUTPUT_DIR, once what it names has been loaded."""
    if comm.is_main_process():
        write_text(os.path.join(cfg.OUTPUT_DIR, name), cfg.dump())


def read_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """The defaults with a file and overrides, as for `load_config`; data are not looked at."""
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    merge_config(cfg, config_file, overrides)
    return cfg
