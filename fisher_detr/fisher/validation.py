"""Does a prediction rank the layers as the measurement does?

A measurement from N images is noisy itself, so even the true sensitivities would not correlate with it by 1.
How noisy it is, two halves of the images tell: the *split-half correlation* r of their mean changes. Means of
all N images have the reliability `2 r / (1 + r)` (Spearman-Brown): what two measurements from N images each
would correlate by, the part of their variance over layers that is not noise. The truth correlates with one of
them by the square root of it: `ceiling = sqrt(2 r / (1 + r))`. A prediction is judged by its part of this
ceiling, which is never below r.

The formula is exact for Pearson's correlation and noise of one size. For ranks, in simulations, it is within
0.03 where both are normal or noise grows with the sensitivity. Where a few layers stand far out of noise of
one size it is up to 0.1 too high, and so strict (r = 0.5). With small r and few layers r itself is uncertain.

Legend: N images, L layers, W widths, R resamples of the images.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from fisher_detr.fisher.agreement import MisrankedLayer, PredictionCheck, RankAgreement
from fisher_detr.fisher.statistics import standard_error

_INTERVAL = (2.5, 97.5)  # percentiles


def validate_prediction(
    predicted: Mapping[str, np.ndarray],
    changes: Mapping[str, np.ndarray],
    layers: Sequence[str],
    widths: Sequence[int],
    num_halves: int = 100,
    num_resamples: int = 1000,
    num_misranked: int = 5,
    seed: int = 0,
    meta: Mapping[str, Any] | None = None,
) -> PredictionCheck:
    """Correlate predicted and measured sensitivities of layers by rank, at every width.

    Args:
        predicted: prediction by objective, `[L, W]` each, in any unit: only the order counts.
        changes: measured change of every image's loss by the same names, `[N, L, W]` each, of images that the
            prediction has not seen.
        layers: names of the L layers.
        widths: W widths in bits.
        num_halves: random splits of the images in two; with an odd N one image is left out of each.
        num_resamples: R of the bootstrap.
        num_misranked: at most so many layers are listed for each objective and width.
        seed: of splits and resamples, which all objectives and widths share.
        meta: where prediction and measurement come from.

    Returns:
        The agreement at every width, and the layers that break it.

    Raises:
        ValueError: other names or shapes, not finite, fewer than 3 layers or 2 images.
    """
    num_images = _check(predicted, changes, (len(layers), len(widths)))
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(num_images) for _ in range(num_halves)]
    resamples = rng.integers(num_images, size=(num_resamples, num_images))
    agreements = []
    for objective, values in predicted.items():
        for column, bits in enumerate(widths):
            prediction, measured = values[:, column], changes[objective][:, :, column]
            drawn = np.stack([measured[rows].mean(axis=0) for rows in resamples])  # [R, L]
            split_half = split_half_correlation(measured, halves)
            agreement = RankAgreement(
                objective=objective,
                bits=int(bits),
                correlation=rank_correlation(prediction, measured.mean(axis=0)),
                interval=_percentiles(np.array([rank_correlation(prediction, row) for row in drawn])),
                split_half=split_half,
                ceiling=ceiling_of(split_half),
                misranked=_misranked(prediction, measured, drawn, layers, num_misranked),
            )
            agreements.append(agreement)
    return PredictionCheck(tuple(agreements), num_images, len(layers), dict(meta or {}))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two `[L]`; NaN where either is constant."""
    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return math.nan
    return float(spearmanr(first, second)[0])


def split_half_correlation(changes: np.ndarray, orders: Sequence[np.ndarray]) -> float:
    """Mean rank correlation of the measurements from two halves of the images.

    Args:
        changes: `[N, L]`.
        orders: permutations of the N images; each is cut in the middle.

    Returns:
        The mean over the orders, of half as many images each: not corrected by Spearman-Brown. NaN where a
        half measures the same for all layers.
    """
    half = len(changes) // 2
    correlations = [
        rank_correlation(changes[order[:half]].mean(axis=0), changes[order[half : 2 * half]].mean(axis=0))
        for order in orders
    ]
    return float(np.mean(correlations))


def ceiling_of(split_half: float) -> float:
    """What a perfect prediction would correlate with the measurement: `sqrt(2 r / (1 + r))`, 0 for r < 0."""
    if math.isnan(split_half):
        return math.nan
    return math.sqrt(2.0 * split_half / (1.0 + split_half)) if split_half > 0.0 else 0.0


def _misranked(
    prediction: np.ndarray, measured: np.ndarray, drawn: np.ndarray, layers: Sequence[str], number: int
) -> tuple[MisrankedLayer, ...]:
    """Layers by the distance of their ranks; those in their place are left out."""
    mean, errors = measured.mean(axis=0), standard_error(measured)
    predicted_ranks, measured_ranks = rankdata(-prediction), rankdata(-mean)
    low, high = np.percentile(rankdata(-drawn, axis=1), _INTERVAL, axis=0)
    distance = np.abs(predicted_ranks - measured_ranks)
    return tuple(
        MisrankedLayer(
            layer=layers[row],
            predicted=float(prediction[row]),
            measured=float(mean[row]),
            standard_error=float(errors[row]),
            predicted_rank=float(predicted_ranks[row]),
            measured_rank=float(measured_ranks[row]),
            rank_interval=(float(low[row]), float(high[row])),
        )
        for row in np.argsort(-distance, kind="stable")[:number]
        if distance[row] > 0.0
    )


def _check(
    predicted: Mapping[str, np.ndarray], changes: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> int:
    """Number of images."""
    if not predicted or set(predicted) != set(changes):
        raise ValueError(
            f"predictions of {sorted(predicted)}, measurements of {sorted(changes)}: expected the same "
            "objectives"
        )
    num_images = len(next(iter(changes.values())))
    if shape[0] < 3 or num_images < 2:
        raise ValueError(
            f"{shape[0]} layers measured on {num_images} images: a rank correlation and its ceiling need at "
            "least 3 layers and 2 images"
        )
    for what, arrays, expected in (
        ("prediction", predicted, shape),
        ("measurement", changes, (num_images, *shape)),
    ):
        for objective, values in arrays.items():
            if values.shape != expected or not np.isfinite(values).all():
                raise ValueError(
                    f"{what} of {objective!r} has shape {values.shape}, expected {expected} finite numbers"
                )
    return num_images


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Interval over resamples, those left out where the correlation is undefined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, _INTERVAL)
    return float(low), float(high)
