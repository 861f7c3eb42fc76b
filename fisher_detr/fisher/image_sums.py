"""What a pass over the images keeps: numbers of every image, and sums over all of them.

Legend: N images, L layers, O objectives, T terms (pairs of objectives), W widths.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fisher_detr.fisher.statistics import term_pairs
from fisher_detr.fisher.weight_products import Product


class ImageSums:
    """Takes the gradients of one image and layer at a time; what a part does not need passes it by.

    Attributes:
        rows: numbers of every image, `[N, ...]` float64; empty where there are none.
        sums: sums over the images, by name.
        needs_products: whether `add_products` does anything.
    """

    needs_products = False

    def __init__(self, weights: Mapping[str, Tensor]):
        """Args are the weights by layer name."""
        # Where the gradients are, so that nobody waits for a GPU after each.
        device = next(iter(weights.values())).device
        self.rows = torch.zeros(0, dtype=torch.float64, device=device)
        self.sums: dict[str, Tensor] = {}
        self._index = {layer: position for position, layer in enumerate(weights)}

    def begin(self, num_images: int, objectives: Sequence[str]) -> None:
        """That many images more."""

    def add(self, layer: str, image: int, gradients: Tensor) -> None:
        """The gradients `[O, *weight.shape]` of one of the images that were begun, 0 being the first ever."""

    def add_products(self, layer: str, products: Sequence[Product], images: Sequence[int]) -> None:
        """The products of a layer's weight in a batch, and which of its images count."""

    def end(self) -> None:
        """All gradients of the images that were begun have been given."""

    def align(self) -> None:
        """Give the sums the shapes that they have on other ranks."""

    def _more_rows(self, num_images: int, shape: tuple[int, ...]) -> None:
        more = self.rows.new_zeros(num_images, *shape)
        self.rows = torch.cat([self.rows, more]) if len(self.rows) else more


class TraceRows(ImageSums):
    """Inner products of the gradients of every image, `[N, L, O, O]`: their mean is the Fisher trace."""

    def begin(self, num_images: int, objectives: Sequence[str]) -> None:
        """See `ImageSums`."""
        self._more_rows(num_images, (len(self._index), len(objectives), len(objectives)))

    def add(self, layer: str, image: int, gradients: Tensor) -> None:
        """See `ImageSums`."""
        flat = gradients.flatten(1)  # [O, numel]
        self.rows[image, self._index[layer]] = (flat @ flat.mT).to(self.rows)


class DiagonalSums(ImageSums):
    """Sums of the products of two gradients, weight by weight: the Fisher diagonal of every term.

    The images of a batch are added up in the model's precision, batches in float64.
    """

    def __init__(self, weights: Mapping[str, Tensor]):
        """Args are the weights by layer name."""
        super().__init__(weights)
        self._weights = weights
        self._pairs: dict[str, tuple[int, int]] = {}
        self._layer: str | None = None  # whose gradients come now
        self._parts: dict[str, Tensor] = {}

    def begin(self, num_images: int, objectives: Sequence[str]) -> None:
        """See `ImageSums`."""
        index = {objective: position for position, objective in enumerate(objectives)}
        self._pairs = {term: (index[a], index[b]) for term, (a, b) in term_pairs(objectives).items()}
        for term in self._pairs:
            for layer, weight in self._weights.items():
                if (name := diagonal_name(term, layer)) not in self.sums:
                    self.sums[name] = torch.zeros_like(weight, dtype=torch.float64, requires_grad=False)

    def add(self, layer: str, image: int, gradients: Tensor) -> None:
        """See `ImageSums`."""
        if layer != self._layer:
            self.end()
            self._layer = layer
        for term, (first, second) in self._pairs.items():
            if term in self._parts:
                self._parts[term].addcmul_(gradients[first], gradients[second])
            else:
                self._parts[term] = gradients[first] * gradients[second]

    def end(self) -> None:
        """See `ImageSums`."""
        for term, part in self._parts.items():
            self.sums[diagonal_name(term, self._layer)] += part
        self._layer, self._parts = None, {}


class ErrorRows(ImageSums):
    """Gradients of every image on the errors of a layer at each width, `[N, L, T or O, W]`.

    In the block form `g_o'd` of every objective, in the diagonal form `sum_i g_oi g_pi d_i^2` of every term.
    The block form takes in what is added to biases, whose gradients are the sums of what comes back.
    """

    def __init__(self, errors: Mapping[str, Tensor], shifts: Mapping[str, Tensor], diagonal: bool):
        """Begin.

        Args:
            errors: by layer, `[W, numel]` in the precision of the weight.
            shifts: of the bias by layer, `[W, C]`; not of all.
            diagonal: which form.
        """
        super().__init__(errors)
        self._shifts = {} if diagonal else shifts
        self.needs_products = bool(self._shifts)
        self._errors = {name: error.square() if diagonal else error for name, error in errors.items()}
        self._diagonal = diagonal
        self._pairs: list[tuple[int, int]] = []

    def begin(self, num_images: int, objectives: Sequence[str]) -> None:
        """See `ImageSums`."""
        index = {objective: position for position, objective in enumerate(objectives)}
        self._pairs = [(index[a], index[b]) for a, b in term_pairs(objectives).values()]
        kinds = len(self._pairs) if self._diagonal else len(objectives)
        num_widths = len(next(iter(self._errors.values())))
        self._more_rows(num_images, (len(self._index), kinds, num_widths))

    def add(self, layer: str, image: int, gradients: Tensor) -> None:
        """See `ImageSums`."""
        if self._diagonal:
            gradients = torch.stack([gradients[a] * gradients[b] for a, b in self._pairs])
        projected = gradients.flatten(1) @ self._errors[layer].mT
        self.rows[image, self._index[layer]] += projected.to(self.rows)

    def add_products(self, layer: str, products: Sequence[Product], images: Sequence[int]) -> None:
        """See `ImageSums`."""
        if layer not in self._shifts:
            return
        rows = self.rows[-len(images) :, self._index[layer]]  # [B, O, W]
        for product in products:
            for objective, gradient in product.gradients.items():
                of_bias = product.bias_gradient(gradient[images])  # [B, C]
                rows[:, objective] += (of_bias @ self._shifts[layer].mT).to(rows)


def diagonal_name(term: str, layer: str) -> str:
    """Name of a sum of `DiagonalSums`."""
    return f"{term}|{layer}"
