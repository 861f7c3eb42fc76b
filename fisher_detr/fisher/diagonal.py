"""Diagonal and trace of the empirical Fisher information."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fisher_detr.fisher.gradients import LossFn
from fisher_detr.fisher.image_pass import ImagePass, PassKeeper, PassSettings
from fisher_detr.fisher.image_sums import DiagonalSums, diagonal_name
from fisher_detr.fisher.statistics import of_set, standard_error, term_pairs
from fisher_detr.structures import Objective


@dataclasses.dataclass(frozen=True)
class FisherEstimate:
    """Empirical Fisher information from N images, one image one sample; L layers.

    With objectives "overall" (A) and "critical" (F) the terms are "overall" `E[g_A g_A']`, "cross"
    `E[g_A g_F']` and "critical" `E[g_F g_F']`; with several sets "cross:<set>" and "critical:<set>".

    Attributes:
        diagonals: term -> layer -> diagonal, float64, of the shape and on the device of the weight.
        image_traces: term -> inner product of each image's two gradients, `[N, L]` float64; layers as above.
        positions: of the N images among those that were given.
    """

    diagonals: Mapping[str, Mapping[str, Tensor]]
    image_traces: Mapping[str, np.ndarray]
    positions: tuple[int, ...] = ()

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

    def of_set(self, name: str) -> "FisherEstimate":
        """The part of one critical set among several, with the terms "cross" and "critical"."""
        return dataclasses.replace(
            self, diagonals=of_set(self.diagonals, name), image_traces=of_set(self.image_traces, name)
        )

    def combined(self, objective: Objective) -> dict[str, Tensor]:
        """Diagonal of the combined Fisher information by layer, float64: for Fisher-weighted scales."""
        factors = objective.factors(self.traces)
        combined = {}
        for layer in next(iter(self.diagonals.values())):
            diagonal = sum(factor * self.diagonals[term][layer] for term, factor in factors.items())
            combined[layer] = diagonal.clamp_min(0.0)  # rounding leaves -1e-20 where two gradients cancel
        return combined


def estimate_fisher(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batches: Sequence[Sequence[Any]],
    settings: PassSettings | None = None,
    keeper: PassKeeper | None = None,
) -> FisherEstimate:
    """Estimate diagonals and traces of every objective, and of the first with every other.

    Sums are in float64 whatever the model's precision: of two objectives, three such copies of the weights.

    Args:
        loss_fn: maps a batch to losses by objective, one of each image (see `image_gradients`).
        parameters: weights by layer name.
        batches: the images; in a batch of one size, or padded so that losses stay as alone.
        settings: how images are differentiated, and when to stop.
        keeper: lets a run that was cut off go on.

    Returns:
        The estimate.

    Raises:
        ValueError: no images, an aliased weight, or a loss or gradient that is not finite.
    """
    sums = DiagonalSums(parameters)
    image_pass = ImagePass(loss_fn, parameters, [sums], settings)
    image_pass.run(batches, keeper and keeper(image_pass))
    num_images = len(image_pass.positions)
    diagonals = {
        term: {layer: sums.sums[diagonal_name(term, layer)].div_(num_images) for layer in parameters}
        for term in term_pairs(image_pass.objectives)
    }
    return FisherEstimate(diagonals, image_traces(image_pass), tuple(image_pass.positions))


def estimate_traces(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batches: Sequence[Sequence[Any]],
    settings: PassSettings | None = None,
    keeper: PassKeeper | None = None,
) -> dict[str, np.ndarray]:
    """Estimate traces alone: of many objectives, whose diagonals would not fit.

    Arguments and errors are those of `estimate_fisher`.

    Returns:
        The `image_traces` of its estimate: term -> `[N, L]`.
    """
    # Gradients are formed here, too. Norms from products of positions (T x T numbers instead of in x out)
    # would need one for every pair of objectives, and traces alone are wanted of many objectives.
    image_pass = ImagePass(loss_fn, parameters, (), settings)
    image_pass.run(batches, keeper and keeper(image_pass))
    return image_traces(image_pass)


def image_traces(image_pass: ImagePass) -> dict[str, np.ndarray]:
    """Inner products of every image's two gradients by term, `[N, L]`."""
    rows = image_pass.traces.rows.cpu().numpy()  # [N, L, O, O]
    index = {objective: position for position, objective in enumerate(image_pass.objectives)}
    pairs = term_pairs(image_pass.objectives)
    return {term: rows[:, :, index[a], index[b]] for term, (a, b) in pairs.items()}
