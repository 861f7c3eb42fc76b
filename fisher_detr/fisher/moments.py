"""Second moments of the inputs of all layers, weighted by an objective's gradients: for rounding weights."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fisher_detr.fisher.gradients import GradientMethod, LossFn
from fisher_detr.fisher.image_pass import ImagePass, PassKeeper, PassSettings
from fisher_detr.fisher.image_sums import ImageSums
from fisher_detr.fisher.input_moments import input_moment
from fisher_detr.fisher.ranks import gathered
from fisher_detr.fisher.statistics import CROSS, term_pairs
from fisher_detr.fisher.weight_products import Product


class MomentSums(ImageSums):
    """Sums over the images of H of every layer, `[G, K, K]` float64 (see `input_moment`)."""

    needs_products = True

    def __init__(
        self, weights: Mapping[str, Tensor], factors: Mapping[str, float], biased: Collection[str] = ()
    ):
        """Begin.

        Args:
            weights: by layer name.
            factors: of every term that counts (`Objective`).
            biased: layers whose bias counts as one more input.
        """
        super().__init__(weights)
        self._biased = frozenset(biased)
        self._shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self._factors = factors
        self._roots: dict[int, float] = {}  # of the factors, by position of the objective
        for name, weight in weights.items():
            inputs = weight[0].numel() + (name in self._biased)
            self.sums[name] = self.rows.new_zeros(1, inputs, inputs)

    def begin(self, num_images: int, objectives: Sequence[str]) -> None:
        """See `ImageSums`."""
        index = {objective: position for position, objective in enumerate(objectives)}
        self._roots = {
            index[first]: self._factors[term] ** 0.5
            for term, (first, second) in term_pairs(objectives).items()
            if first == second and self._factors.get(term)
        }

    def add_products(self, layer: str, products: Sequence[Product], images: Sequence[int]) -> None:
        """See `ImageSums`."""
        for product in products:
            scaled = [
                root * product.gradients[objective][images]
                for objective, root in self._roots.items()
                if objective in product.gradients
            ]
            if scaled:
                moment = input_moment(
                    product.x[images],
                    self._joined(scaled, product),
                    self._shapes[layer],
                    product.geometry,
                    layer in self._biased,
                )
                if len(moment) != len(self.sums[layer]):  # groups of a convolution
                    self.sums[layer] = self.rows.new_zeros(moment.shape)
                self.sums[layer] += moment

    def align(self) -> None:
        """See `ImageSums`."""
        shapes = gathered({layer: tuple(total.shape) for layer, total in self.sums.items()})
        for layer, total in self.sums.items():
            largest = max(of_rank[layer] for of_rank in shapes)
            if total.shape != largest:
                self.sums[layer] = total.new_zeros(largest)

    def _joined(self, gradients: Sequence[Tensor], product: Product) -> Tensor:
        """One gradient whose squared norm at a position is that of the objective."""
        if any(term.startswith(CROSS) for term in self._factors):  # of (a_A g_A + a_F g_F)^2
            return sum(gradients[1:], gradients[0])
        if product.geometry is None:
            return torch.cat(list(gradients), dim=-1)
        groups = product.geometry[-1]
        return torch.cat([g.unflatten(1, (groups, -1)) for g in gradients], dim=2).flatten(1, 2)


def estimate_input_moments(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batches: Sequence[Sequence[Any]],
    factors: Mapping[str, float],
    biased: Collection[str] = (),
    settings: PassSettings | None = None,
    keeper: PassKeeper | None = None,
) -> dict[str, Tensor]:
    """Estimate how errors of one output channel's weights interact (`input_moment`), for every layer.

    Of several objectives, those with a factor count: with `a_A^2, 2 a_A a_F, a_F^2` for the terms "overall",
    "cross" and "critical" the gradient is `a_A g_A + a_F g_F`; without a cross term the moments add up.

    Args:
        loss_fn: maps a batch to losses by objective, one of each image (see `image_gradients`).
        parameters: weights by layer name.
        batches: the images; in a batch of one size, or padded so that losses stay as alone.
        factors: of the terms, not negative (`structures.Objective.factors`).
        biased: layers whose bias counts as one more input, the last (`input_moment`).
        settings: how images are differentiated, and when to stop.
        keeper: lets a run that was cut off go on.

    Returns:
        H `[G, K, K]` by layer (with a bias K + 1), float64, mean over the images; zero where no loss depends
        on the layer.

    Raises:
        ValueError: no images, the method single, an aliased weight, or a loss or gradient that is not finite.
    """
    settings = settings or PassSettings()
    if settings.method is GradientMethod.SINGLE:
        raise ValueError("the moments of a layer's inputs are not known to the method single: take batched")
    sums = MomentSums(parameters, factors, biased)
    image_pass = ImagePass(loss_fn, parameters, [sums], settings)
    image_pass.run(batches, keeper and keeper(image_pass))
    return {layer: total.div_(len(image_pass.positions)) for layer, total in sums.sums.items()}
