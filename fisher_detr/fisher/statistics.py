"""The mathematics, apart from models and loops: terms, means with standard errors.

Legend: N images, L layers, O objectives. A *term* is a pair of objectives. The first objective is the overall
one; of the others, the critical ones, only the pairs with it are of interest.
"""

from collections.abc import Mapping, Sequence

import numpy as np

OVERALL, CRITICAL, CROSS = "overall", "critical", "cross"


def term_pairs(objectives: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name every objective with itself, and the first with every other.

    Args:
        objectives: names, such as ("overall", "critical"), or ("overall", "critical:person",
            "critical:sign").

    Returns:
        Pairs by term name: an objective with itself has its name; "overall" with "critical" is "cross", with
        "critical:person" it is "cross:person"; any other pair is "first*second".
    """
    first, *others = objectives
    pairs = {first: (first, first)}
    for other in others:
        pairs |= {cross_name(first, other): (first, other), other: (other, other)}
    return pairs


def cross_name(first: str, other: str) -> str:
    """Name of the term of the first objective with another."""
    kind, colon, category_set = other.partition(":")
    return f"{CROSS}{colon}{category_set}" if (first, kind) == (OVERALL, CRITICAL) else f"{first}*{other}"


def of_set(terms: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The terms of one critical set among several, as those of a run with this set alone.

    Args:
        terms: values by name of term or objective.
        name: of the set.

    Raises:
        ValueError: no such set.
    """
    renamed = {f"{CRITICAL}:{name}": CRITICAL, f"{CROSS}:{name}": CROSS, OVERALL: OVERALL}
    if f"{CRITICAL}:{name}" not in terms:
        known = sorted(term.partition(":")[2] for term in terms if term.startswith(f"{CRITICAL}:"))
        raise ValueError(f"no critical set {name!r} in the estimate, which has {known}")
    return {new: terms[old] for old, new in renamed.items() if old in terms}


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
