"""The block form of the sensitivity: per-image gradients on the actual quantization errors."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fisher_detr.fisher.diagonal import ErrorFn, checked_error, select_layers
from fisher_detr.fisher.gradients import LossFn, checked_inner_products, image_gradients
from fisher_detr.fisher.statistics import project, quadratic_forms, standard_error, traces_by_term
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable


@dataclasses.dataclass(frozen=True)
class BlockEstimate:
    """What one pass over N images leaves for L layers and W widths: a few numbers for each image.

    Everything else follows: quadratic forms, linear terms, standard errors, split halves.

    Attributes:
        layers: the L layers.
        widths: the W widths in bits.
        projections: `g'd` by objective, `[N, L, W]` float64.
        image_traces: inner product of each image's two gradients by term, `[N, L]` float64.
    """

    layers: tuple[LayerInfo, ...]
    widths: tuple[int, ...]
    projections: Mapping[str, np.ndarray]
    image_traces: Mapping[str, np.ndarray]

    def table(self, meta: Mapping[str, Any] | None = None) -> SensitivityTable:
        """Sensitivity `d'I_l d = E[(g'd)^2]` of every layer and width, with standard errors and `E[g]'d`."""
        products = quadratic_forms(self.projections)
        num_images = len(next(iter(products.values())))
        errors = {term: standard_error(values) for term, values in products.items()} if num_images > 1 else {}
        return SensitivityTable(
            layers=self.layers,
            widths=self.widths,
            terms={term: values.mean(axis=0) for term, values in products.items()},
            traces={term: values.mean(axis=0) for term, values in self.image_traces.items()},
            form=SensitivityForm.BLOCK,
            standard_errors=errors,
            linear={objective: values.mean(axis=0) for objective, values in self.projections.items()},
            meta={**(meta or {}), "num_images": num_images},
        )


def estimate_block_sensitivity(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    samples: Iterable[Any],
    error: ErrorFn,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    progress: bool = True,
) -> BlockEstimate:
    """Project every image's gradients on the quantization errors of all layers and widths.

    The errors of all widths are held at once in the model's precision (7 widths of DETR-R50 in float32:
    1.1 GB), the gradients of one image at a time. Projections are summed in the model's precision.

    Args:
        loss_fn: maps one image to scalar losses by objective (see `image_gradients`).
        parameters: weights by layer name, one for every layer.
        samples: the images.
        error: quantization error by layer name and width, called once for each.
        layers: the layers to allocate bits to, in the order of the table.
        widths: candidate widths in bits, ascending.
        progress: show a progress bar, on a terminal.

    Returns:
        The estimate; `.table(meta)` is its SensitivityTable.

    Raises:
        ValueError: no samples, an error of another shape, an aliased weight, or a loss or gradient that is
            not finite.
    """
    weights = {name: parameters[name] for name in select_layers(parameters, layers)}
    errors = {name: _stack_errors(name, weight, error, widths) for name, weight in weights.items()}
    projections, products = [], []
    for image, gradients in image_gradients(loss_fn, weights, samples, progress):
        products.append(checked_inner_products(gradients, image))
        projections.append(project(gradients, errors))
        objectives = tuple(gradients)
        del gradients  # before those of the next image are computed
    by_objective = dict(zip(objectives, np.stack(projections, axis=1), strict=True))  # [N, L, W] each
    return BlockEstimate(tuple(layers), tuple(widths), by_objective, traces_by_term(products, objectives))


def _stack_errors(name: str, weight: Tensor, error: ErrorFn, widths: Sequence[int]) -> Tensor:
    """Errors of one layer, `[W, numel]`."""
    rows = [checked_error(error, name, bits, weight).to(weight).flatten() for bits in widths]
    return torch.stack(rows)
