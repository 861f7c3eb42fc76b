"""Rounding of a row of a weight under a full matrix: by brute force, and by OBQ's updates of the inverse."""

import itertools

import numpy as np


def best_row(row, scale, qmax, matrix):
    """The levels with the least `d'Hd` of all, as values."""
    levels = itertools.product(range(-qmax, qmax + 1), repeat=len(row))
    candidates = np.array(list(levels)) * scale  # [N, K]
    errors = candidates - row
    return candidates[np.einsum("nk,kl,nl->n", errors, matrix, errors, optimize=True).argmin()]


def obq_row(row, scale, qmax, matrix, order):
    """Optimal Brain Quantization in a fixed order: the others move after each weight, and it leaves H."""
    row, inverse, values = row.copy(), np.linalg.inv(matrix), np.zeros_like(row)
    for j in order:
        values[j] = np.clip(np.round(row[j] / scale), -qmax, qmax) * scale
        row -= (row[j] - values[j]) / inverse[j, j] * inverse[:, j]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return values


def damped(matrix, damping):
    """`H` and this part of the mean of its diagonal."""
    return matrix + damping * np.mean(np.diag(matrix)) * np.eye(len(matrix))
