"""What an evaluation leaves beside its results, so that a report can be made of it later."""

import datetime
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch import nn

import fisher_detr
from fisher_detr.checkpoint import local_path
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.engine.coverage import model_coverage, traced_coverage
from fisher_detr.engine.environment import environment
from fisher_detr.files import sha256_of, write_json
from fisher_detr.layers import in_eval_mode
from fisher_detr.modeling import DetrBase


def evaluation_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the results on a data set go."""
    return os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)


def record_evaluation(cfg: CfgNode, model: nn.Module) -> None:
    """Write `provenance.json`, and of a detector `coverage.json`, beside the results on DATASETS.TEST.

    Args:
        cfg: of the evaluation.
        model: that was evaluated; DistributedDataParallel may be around it.
    """
    if not comm.is_main_process():
        return
    bare = getattr(model, "module", model)
    for name in cfg.DATASETS.TEST:
        folder = evaluation_folder(cfg, name)
        if isinstance(bare, DetrBase):  # an exported one tells of itself
            sample = DetrDatasetMapper(cfg, is_train=False)(DatasetCatalog.get(name)[0])
            with in_eval_mode(bare):
                coverage = traced_coverage(model_coverage(cfg, bare), bare, sample)
            coverage.save(os.path.join(folder, "coverage.json"))
        write_json(os.path.join(folder, "provenance.json"), provenance(cfg))


def provenance(cfg: CfgNode) -> dict[str, Any]:
    """How a number came about, as plain JSON; a model in training began with `started_from`."""
    weights = local_path(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else ""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": cfg.dump(),
        "environment": {"fisher_detr": fisher_detr.__version__, **environment()},
        "seed": cfg.SEED,
        "started_from": cfg.MODEL.WEIGHTS,
        "started_from_sha256": sha256_of(weights) if os.path.isfile(weights) else None,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
