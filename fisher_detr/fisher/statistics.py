"""The mathematics, apart from models and loops: Gram matrices, quadratic forms, means with standard errors.

Legend: N images, L layers, W widths, O objectives. A *term* is a pair of objectives.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def term_pairs(objectives: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name every unordered pair of objectives.

    Args:
        objectives: names, such as ("overall", "critical").

    Returns:
        Pairs by term name: an objective with itself has its name, "overall" with "critical" is "cross", any
        other pair "first*second".
    """
    pairs = itertools.combinations_with_replacement(objectives, 2)
    return {_term_name(first, second): (first, second) for first, second in pairs}


def inner_products(gradients: Mapping[str, Mapping[str, Tensor]]) -> np.ndarray:
    """Inner products of the gradients of one image, layer by layer.

    Args:
        gradients: objective -> layer -> gradient.

    Returns:
        `[L, O, O]` float64: `g_o'g_p` restricted to each layer; their mean over images is the Fisher trace.
    """
    layers = next(iter(gradients.values()))
    products = []
    for layer in layers:
        stacked = torch.stack([of_layer[layer].flatten() for of_layer in gradients.values()])  # [O, numel]
        stacked = stacked.double()
        products.append(stacked @ stacked.T)
    return torch.stack(products).cpu().numpy()


def project(gradients: Mapping[str, Mapping[str, Tensor]], errors: Mapping[str, Tensor]) -> np.ndarray:
    """Project the gradients of one image on the errors of every width.

    Args:
        gradients: objective -> layer -> gradient.
        errors: layer -> `[W, numel]`, in the precision of the gradients.

    Returns:
        `[O, L, W]` float64: `g_o'd` of each layer and width.
    """
    projections = []
    for layer, error in errors.items():
        stacked = torch.stack([of_layer[layer].flatten() for of_layer in gradients.values()])  # [O, numel]
        projections.append(stacked @ error.T)  # [O, W]
    return torch.stack(projections, dim=1).double().cpu().numpy()


def quadratic_forms(projections: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Products of projections, image by image: their mean is `d'I d` of each term.

    Args:
        projections: `g_o'd` by objective, `[N, L, W]` each.

    Returns:
        `[N, L, W]` by term name.
    """
    return {name: projections[a] * projections[b] for name, (a, b) in term_pairs(tuple(projections)).items()}


def traces_by_term(products: Sequence[np.ndarray], objectives: Sequence[str]) -> dict[str, np.ndarray]:
    """Sort the inner products of N images into terms.

    Args:
        products: `[L, O, O]` of each image (see `inner_products`).
        objectives: names of the O objectives.

    Returns:
        `[N, L]` by term name.
    """
    stacked = np.stack(products)  # [N, L, O, O]
    index = {objective: position for position, objective in enumerate(objectives)}
    return {term: stacked[:, :, index[a], index[b]] for term, (a, b) in term_pairs(objectives).items()}


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first dimension (images); infinite for a single image.

    Args:
        values: `[N, ...]`, independent over N.

    Returns:
        `[...]`.
    """
    if len(values) < 2:
        return np.full(values.shape[1:], np.inf)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _term_name(first: str, second: str) -> str:
    if first == second:
        return first
    return "cross" if {first, second} == {"overall", "critical"} else f"{first}*{second}"
