"""Settings of the trainer that cannot be, told before anything is built."""

import difflib
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from fisher_detr.critical import resolve_category_sets
from fisher_detr.evaluation import box_metrics

# What the metrics of the averaged weights are below.
EMA = "ema"


def trainer_mistakes(cfg: CfgNode) -> Iterator[str]:
    """What is wrong with accumulation, averaged weights and the metric of the best checkpoint."""
    yield from _accumulation(cfg)
    if cfg.MODEL_EMA.ENABLED and not 0 < cfg.MODEL_EMA.DECAY < 1:
        yield f"MODEL_EMA.DECAY is {cfg.MODEL_EMA.DECAY:g}, expected above 0 and below 1"
    if cfg.TEST.BEST_METRIC:
        yield from _best_metric(cfg)


def _accumulation(cfg: CfgNode) -> Iterator[str]:
    steps, images = cfg.SOLVER.ACCUMULATION_STEPS, cfg.SOLVER.IMS_PER_BATCH
    # Where it is set, Detectron2 fits the batch to the number of ranks.
    ranks = cfg.SOLVER.REFERENCE_WORLD_SIZE or comm.get_world_size()
    if steps < 1:
        yield f"SOLVER.ACCUMULATION_STEPS is {steps}, expected 1 or more micro-batches"
    elif steps > 1 and images % (steps * ranks):
        yield (
            f"SOLVER.IMS_PER_BATCH is {images}, which cannot be split evenly into {steps} micro-batches "
            f"(SOLVER.ACCUMULATION_STEPS) of {ranks} process{'es' if ranks > 1 else ''}: set it to a "
            f"multiple of {steps * ranks}"
        )


def _best_metric(cfg: CfgNode) -> Iterator[str]:
    metric = cfg.TEST.BEST_METRIC
    if not cfg.DATASETS.TEST:
        yield f"TEST.BEST_METRIC is {metric!r} and DATASETS.TEST is empty: name the data set to evaluate on"
        return
    if metric.startswith(f"{EMA}/") and not cfg.MODEL_EMA.ENABLED:
        yield f"TEST.BEST_METRIC is {metric!r} and MODEL_EMA.ENABLED is False: set it to True"
        return
    known = _known_metrics(cfg)
    if known and metric not in known:
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.5) or known[:3]
        yield f"TEST.BEST_METRIC is {metric!r}, which no evaluation gives, did you mean {' or '.join(near)}?"


def _known_metrics(cfg: CfgNode) -> list[str]:
    """Names of all metrics in the event storage; none where a data set does not tell its categories."""
    names = []
    for dataset in cfg.DATASETS.TEST:
        if dataset not in DatasetCatalog or MetadataCatalog.get(dataset).get("thing_supercategories") is None:
            return []
        try:
            sets = resolve_category_sets(cfg.CRITICAL.SETS, MetadataCatalog.get(dataset))
        except ValueError:  # a mistake that is told by itself
            return []
        prefix = f"{dataset}/bbox/" if len(cfg.DATASETS.TEST) > 1 else "bbox/"
        names += [prefix + name for name in box_metrics(dataset, sets)]
    return names + [f"{EMA}/{name}" for name in names if cfg.MODEL_EMA.ENABLED]
