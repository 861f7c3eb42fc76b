"""Multiple-choice knapsack by enumeration, by dynamic programming over bytes, and a bound by Lagrange."""

import itertools

import numpy as np


def brute_force(cost, sizes, budget):
    """Least cost over all choices; infinite where none fits."""
    best = np.inf
    for columns in itertools.product(range(cost.shape[1]), repeat=len(cost)):
        if sum(row[column] for row, column in zip(sizes, columns, strict=True)) <= budget:
            best = min(best, sum(row[column] for row, column in zip(cost, columns, strict=True)))
    return best


def dynamic_program(cost, sizes, budget):
    """Least cost: `best[s]` is the least cost of the layers so far in at most s bytes."""
    best = np.zeros(budget + 1)
    for row_cost, row_sizes in zip(cost, sizes, strict=True):
        after = np.full(budget + 1, np.inf)
        for value, size in zip(row_cost, row_sizes, strict=True):
            if size <= budget:
                after[size:] = np.minimum(after[size:], best[: budget + 1 - size] + value)
        best = after
    return best[-1]


def lagrange_bound(cost, sizes, budget):
    """`max_t sum_l min_w (cost + t size) - t budget`, a lower bound for every price t of a byte."""

    def bound(price):
        return (cost + price * sizes).min(axis=1).sum() - price * budget

    prices = np.geomspace(1e-12, 1e12, 1000) * cost.max() / sizes.max()
    for _ in range(4):  # concave in the price: refine around the best
        best = int(np.argmax([bound(price) for price in prices]))
        prices = np.linspace(prices[max(best - 1, 0)], prices[min(best + 1, len(prices) - 1)], 50)
    return max(bound(price) for price in prices)
