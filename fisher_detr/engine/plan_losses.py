"""What plans really do to the losses, beside what was predicted."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fisher_detr.data import batches_of_one_size
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.fisher import CRITICAL, OVERALL, evaluate_losses, standard_error
from fisher_detr.modeling import DetrBase
from fisher_detr.modeling.meta_arch.detr_base import Batch
from fisher_detr.structures import Arm, BitAllocation, SensitivityForm, SensitivityTable


class PlanLosses:
    """Measures plans of one model on the same images."""

    def __init__(self, quantizer: PostTrainingQuantizer, arm: Arm, images: Batch):
        """Measure the losses in full precision.

        Args:
            quantizer: of the full-precision model.
            arm: of the plans.
            images: not those of the calibration, with `instances`.
        """
        self._quantizer = quantizer
        self._arm = arm
        self._images = images
        self._before = self._losses(quantizer.model)

    def measured(self, plan: BitAllocation) -> BitAllocation:
        """Quantize by a plan, and compare.

        Returns:
            The plan with `predicted` and `measured` in its `meta`: how far the loss of an image rises, by
            objective; measured with `standard_error` (null for one image). Predicted is half the quadratic
            form of the weights' errors, summed over the layers (measured sensitivities are rises themselves);
            what is measured has the quantization of activations in it.
        """
        after = self._losses(self._quantizer.quantize(plan, self._arm).model)
        found = {name: _summary(after[name] - self._before[name]) for name in after}
        predicted = predicted_rises(self._quantizer.sensitivities(self._arm), plan)
        return dataclasses.replace(plan, meta={**plan.meta, "predicted": predicted, "measured": found})

    @torch.no_grad()
    def _losses(self, model: DetrBase) -> dict[str, np.ndarray]:
        quantizer, settings = self._quantizer, self._quantizer.fisher_settings
        overall = quantizer.overall_of(self._arm)
        losses = image_losses(model, quantizer.sets, quantizer.settings.aux_loss, overall)
        batches = batches_of_one_size(self._images, settings.batch_size, settings.batch_pixels)
        return evaluate_losses(losses, batches)


def predicted_rises(tables: Mapping[str, SensitivityTable], plan: BitAllocation) -> dict[str, float]:
    """Rise of the loss by objective: "overall" and "critical", of several critical sets "critical:<set>".

    Args:
        tables: sensitivities by critical set.
        plan: of the same layers.
    """
    first = next(iter(tables.values()))
    rises = {OVERALL: _rise(first, OVERALL, plan)}
    for name, table in tables.items():
        if CRITICAL in table.terms:
            rises[CRITICAL if len(tables) == 1 else f"{CRITICAL}:{name}"] = _rise(table, CRITICAL, plan)
    return rises


def _rise(table: SensitivityTable, term: str, plan: BitAllocation) -> float:
    columns = [table.widths.index(plan.bits[layer.name]) for layer in table.layers]
    # A quadratic form stands for that of the Hessian: the rise is half of it.
    factor = 1.0 if table.form is SensitivityForm.MEASURED else 0.5
    return factor * float(table.terms[term][np.arange(len(columns)), columns].sum())


def _summary(rises: np.ndarray) -> dict[str, Any]:
    error = float(standard_error(rises))
    return {"rise": float(rises.mean()), "standard_error": error if np.isfinite(error) else None}
