"""Whether the predicted sensitivities hold on images that they were not made from."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from fisher_detr.engine.estimation import Estimator
from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.fisher import CRITICAL, OVERALL, PredictionCheck, validate_prediction
from fisher_detr.structures import Arm

logger = logging.getLogger(__name__)


def check_prediction(
    cfg: CfgNode, quantizer: PostTrainingQuantizer, arm: Arm, images: Sequence[dict[str, Any]]
) -> PredictionCheck:
    """Hold an arm's sensitivities against what quantizing one layer at a time does on other images.

    The result is logged, and written to `validation.json` in OUTPUT_DIR.

    Args:
        cfg: FISHER says how many images and which widths.
        quantizer: of the full-precision model.
        arm: any but uniform, which predicts nothing.
        images: not those of the calibration (`held_out_images`).
    """
    found = validate(quantizer, arm, images, tuple(cfg.FISHER.VALIDATE_WIDTHS))
    if comm.is_main_process():
        found.save(os.path.join(cfg.OUTPUT_DIR, "validation.json"))
    logger.info("Predicted and measured sensitivities:\n%s", found)
    return found


def validate(
    quantizer: PostTrainingQuantizer, arm: Arm, images: Sequence[dict[str, Any]], widths: tuple[int, ...]
) -> PredictionCheck:
    """See `check_prediction`.

    Args:
        quantizer: of the full-precision model.
        arm: any but uniform, which predicts nothing.
        images: not those of the calibration, as the mapper makes them, with `instances`.
        widths: in bits, among the candidates.
    """
    tables = {name: table.at_widths(widths) for name, table in quantizer.sensitivities(arm).items()}
    first = next(iter(tables.values()))
    origin = {**first.meta, "held_out": [image["image_id"] for image in images]}
    estimator = Estimator(
        quantizer.model,
        images,
        quantizer.weights,
        quantizer.sets,
        quantizer.settings.aux_loss,
        quantizer.fisher_settings,
        quantizer.folder,
        quantizer.overall_of(arm),
        biases=quantizer.rounded_biases,
        origin=origin,
    )
    error = quantizer.error_fn(arm, widths)
    measured = estimator.measure(error, quantizer.layers, widths, {"widths": widths})
    estimator.discard_partial()
    predicted = {OVERALL: first.terms[OVERALL]}
    for name, table in tables.items():
        objective = CRITICAL if CRITICAL in measured.changes else f"{CRITICAL}:{name}"
        if objective in measured.changes and CRITICAL in table.terms:
            predicted[objective] = table.terms[CRITICAL]
    changes = {objective: measured.changes[objective] for objective in predicted}
    names = [layer.name for layer in quantizer.layers]
    return validate_prediction(predicted, changes, names, widths, meta=origin)
