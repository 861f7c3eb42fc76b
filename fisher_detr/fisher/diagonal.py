"""Diagonal and trace of the empirical Fisher information, and the sensitivity that follows from them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fisher_detr.fisher.gradients import Gradients, LossFn, checked_inner_products, image_gradients
from fisher_detr.fisher.statistics import standard_error, term_pairs, traces_by_term
from fisher_detr.structures import LayerInfo, Objective, SensitivityForm, SensitivityTable

# Quantization error `Q_b(w) - w` of a layer at a width in bits; the shape of its weight.
ErrorFn = Callable[[str, int], Tensor]


@dataclasses.dataclass(frozen=True)
class FisherEstimate:
    """Empirical Fisher information from N images, one image one sample; L layers.

    With objectives "overall" (A) and "critical" (F) the terms are "overall" `E[g_A g_A']`, "cross"
    `E[g_A g_F']` and "critical" `E[g_F g_F']`.

    Attributes:
        diagonals: term -> layer -> diagonal, float64, of the shape and on the device of the weight.
        image_traces: term -> inner product of each image's two gradients, `[N, L]` float64; layers as above.
    """

    diagonals: Mapping[str, Mapping[str, Tensor]]
    image_traces: Mapping[str, np.ndarray]

    @property
    def num_images(self) -> int:
        """N."""
        return len(next(iter(self.image_traces.values())))

    @property
    def traces(self) -> dict[str, np.ndarray]:
        """Trace of each layer by term, `[L]`."""
        return {term: values.mean(axis=0) for term, values in self.image_traces.items()}

    @property
    def trace_errors(self) -> dict[str, np.ndarray]:
        """Standard errors of the traces by term, `[L]`."""
        return {term: standard_error(values) for term, values in self.image_traces.items()}

    def combined(self, objective: Objective) -> dict[str, Tensor]:
        """Diagonal of the combined Fisher information by layer, float64: for Fisher-weighted scales."""
        factors = objective.factors(self.traces)
        combined = {}
        for layer in next(iter(self.diagonals.values())):
            diagonal = sum(factor * self.diagonals[term][layer] for term, factor in factors.items())
            combined[layer] = diagonal.clamp_min(0.0)  # rounding leaves -1e-20 where two gradients cancel
        return combined


def estimate_fisher(
    loss_fn: LossFn, parameters: Mapping[str, Tensor], samples: Iterable[Any], progress: bool = True
) -> FisherEstimate:
    """Estimate diagonals and traces for every pair of objectives.

    Sums are in float64 whatever the model's precision: with two objectives, three such copies of the weights.

    Args:
        loss_fn: maps one image to scalar losses by objective (see `image_gradients`).
        parameters: weights by layer name.
        samples: the images.
        progress: show a progress bar, on a terminal.

    Returns:
        The estimate.

    Raises:
        ValueError: no samples, an aliased weight, or a loss or gradient that is not finite.
    """
    sums: dict[str, dict[str, Tensor]] = {}
    products = []
    for image, gradients in image_gradients(loss_fn, parameters, samples, progress):
        products.append(checked_inner_products(gradients, image))
        _accumulate(sums, gradients)
        objectives = tuple(gradients)
        del gradients  # before those of the next image are computed
    for of_layers in sums.values():
        for diagonal in of_layers.values():
            diagonal.div_(len(products))
    return FisherEstimate(sums, traces_by_term(products, objectives))


def diagonal_sensitivity(
    fisher: FisherEstimate,
    error: ErrorFn,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    meta: Mapping[str, Any] | None = None,
) -> SensitivityTable:
    """Sensitivity `sum_i F_ii d_i^2` of every layer and width (method.md section 3).

    Args:
        fisher: the estimate.
        error: quantization error by layer name and width.
        layers: the layers to allocate bits to, in the order of the table.
        widths: candidate widths in bits, ascending.
        meta: where it comes from.

    Returns:
        The table, in the form DIAGONAL.

    Raises:
        ValueError: a layer without an estimate, or an error of another shape.
    """
    some = next(iter(fisher.diagonals.values()))
    order = [list(some).index(name) for name in select_layers(some, layers)]
    terms = {term: np.zeros((len(layers), len(widths))) for term in fisher.diagonals}
    for row, layer in enumerate(layers):
        for column, bits in enumerate(widths):
            squared = checked_error(error, layer.name, bits, some[layer.name]).double().square()
            for term, diagonals in fisher.diagonals.items():
                terms[term][row, column] = torch.sum(diagonals[layer.name] * squared).item()
    return SensitivityTable(
        layers=tuple(layers),
        widths=tuple(widths),
        terms=terms,
        traces={term: values[order] for term, values in fisher.traces.items()},
        form=SensitivityForm.DIAGONAL,
        meta={**(meta or {}), "num_images": fisher.num_images},
    )


def checked_error(error: ErrorFn, name: str, bits: int, like: Tensor) -> Tensor:
    """Quantization error of a layer; ValueError unless it has the shape of `like`."""
    values = error(name, bits).detach()
    if values.shape != like.shape:
        expected, found = tuple(like.shape), tuple(values.shape)
        raise ValueError(f"error of layer {name!r} at {bits} bits has shape {found}, expected {expected}")
    return values


def select_layers(known: Iterable[str], layers: Sequence[LayerInfo]) -> list[str]:
    """Names of the layers; ValueError where one is not among the known ones."""
    names = [layer.name for layer in layers]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"layers {unknown[:5]} have no weights among the named parameters: list theirs too")
    return names


def _accumulate(sums: dict[str, dict[str, Tensor]], gradients: Gradients) -> None:
    for term, (first, second) in term_pairs(tuple(gradients)).items():
        of_layers = sums.setdefault(term, {})
        for layer, gradient in gradients[first].items():
            left, right = gradient.double(), gradients[second][layer].double()
            if layer in of_layers:
                of_layers[layer].addcmul_(left, right)
            else:
                of_layers[layer] = left * right
