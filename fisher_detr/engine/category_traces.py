"""Fisher traces of every category and critical set: what their losses have to fear from quantization."""

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from fisher_detr.critical import metric_names, resolve_category_sets
from fisher_detr.data import dataset_ids
from fisher_detr.engine.calibration_images import calibration_images
from fisher_detr.engine.commands import load_float, sole_writer
from fisher_detr.engine.estimation import Estimator
from fisher_detr.engine.evaluation_record import provenance
from fisher_detr.engine.fisher_settings import FisherSettings
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.engine.table_origin import provenance_of
from fisher_detr.fisher import CRITICAL, OVERALL, standard_error
from fisher_detr.modeling import DetrBase
from fisher_detr.modeling.meta_arch.detr_base import Batch
from fisher_detr.quantization import quantizable_layers
from fisher_detr.structures import CategorySet

TOGETHER = 8  # objectives that one pass differentiates beside the overall one


def measure_traces(cfg: CfgNode) -> dict[str, Any]:
    """Trace of the Fisher information of L_A, of L_F for every critical set, and for every category alone.

    Args:
        cfg: of a model in full precision; the images are those of QUANT.CALIBRATION.

    Returns:
        Plain JSON: `num_images`; `objectives` with `name`, `kind` (overall, set or category), `categories`
        (ids of the data set), `trace` and `standard_error` over the images, in units of the loss squared,
        null where there is one image; and `provenance`.
    """
    model = float_model_for_quantization(load_float(cfg), cfg.QUANT.FOLD_NORM)
    images, sets = calibration_images(cfg), _sets(cfg)
    found: dict[str, np.ndarray] = {}
    with sole_writer(cfg):
        for start in range(0, max(len(sets), 1), TOGETHER):
            found |= _image_traces(cfg, model, images, sets[start : start + TOGETHER])
    ids = dataset_ids(cfg.DATASETS.TRAIN[0])
    objectives = [_described(found[OVERALL], OVERALL, OVERALL, ids)]
    for chosen in sets:
        kind, _, name = chosen.name.partition("_")
        members = [ids[index] for index in chosen.indices]
        objectives.append(_described(found[chosen.name], name, kind, members))
    return {"num_images": len(images), "objectives": objectives, "provenance": provenance(cfg)}


def _sets(cfg: CfgNode) -> list[CategorySet]:
    """The critical sets, and every category as a set; named apart, for a set may be called as a category."""
    name = cfg.DATASETS.TRAIN[0]
    metadata = MetadataCatalog.get(name)
    sets = resolve_category_sets(cfg.CRITICAL.SETS, metadata)
    keys = metric_names(metadata.thing_classes, dataset_ids(name))
    return [
        *(CategorySet(f"set_{chosen.name}", chosen.indices, chosen.num_classes) for chosen in sets),
        *(CategorySet(f"category_{key}", (i,), len(keys)) for i, key in enumerate(keys)),
    ]


def _image_traces(
    cfg: CfgNode, model: DetrBase, images: Batch, sets: list[CategorySet]
) -> dict[str, np.ndarray]:
    """Trace of every image, `[N]`, by name of the set; the overall one too."""
    estimator = Estimator(
        model,
        images,
        {name: layer.weight for name, layer in quantizable_layers(model, cfg.QUANT.SKIP_LAYERS).items()},
        {chosen.name: chosen for chosen in sets},
        cfg.ALLOCATION.AUX_LOSS,
        FisherSettings.from_config(cfg),
        cfg.OUTPUT_DIR,
        origin={**provenance_of(cfg), "sets": [(chosen.name, chosen.indices) for chosen in sets]},
    )
    traces = {name: part.sum(axis=1) for name, part in estimator.traces.items()}
    estimator.discard_partial()
    names = {OVERALL: OVERALL, CRITICAL: sets[0].name if len(sets) == 1 else ""}
    names |= {f"{CRITICAL}:{chosen.name}": chosen.name for chosen in sets}
    return {names[term]: values for term, values in traces.items() if term in names}


def _described(traces: np.ndarray, name: str, kind: str, categories: list[int]) -> dict[str, Any]:
    error = float(standard_error(traces))
    return {
        "name": name,
        "kind": kind,
        "categories": categories,
        "trace": float(traces.mean()),
        "standard_error": error if np.isfinite(error) else None,
    }
