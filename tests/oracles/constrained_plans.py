"""Every plan of a small problem, one by one: the best that keeps to all limits and restrictions."""

import itertools

import numpy as np

ROUNDING = 1e-9  # by which sums of fractions may exceed a limit


def every_plan(num_layers, widths):
    """All assignments of widths, as indices `[W^L, L]`."""
    return np.array(list(itertools.product(range(len(widths)), repeat=num_layers)))


def sums(values, plans):
    """Sum of the chosen entries of `[L, W]` for each plan `[N, L]`."""
    return sum(values[layer][plans[:, layer]] for layer in range(plans.shape[1]))


def allowed_plans(num_layers, widths, ties=(), fixed=None, smallest=2, largest=8):
    """The plans that keep ties and fixed widths (layers by their indices), smallest and largest width."""
    plans = every_plan(num_layers, widths)
    bits = np.array(widths)[plans]
    keep = np.ones(len(plans), dtype=bool)
    for tie in ties:
        for layer in tie:
            keep &= bits[:, layer] == bits[:, tie[0]]
    for layer in range(num_layers):
        if layer in (fixed or {}):
            keep &= bits[:, layer] == fixed[layer]
        else:
            keep &= (bits[:, layer] >= smallest) & (bits[:, layer] <= largest)
    return plans[keep]


def within(plans, usages, limits):
    """Whether each plan keeps to all limits, given as `[L, W]` and a number each."""
    keep = np.ones(len(plans), dtype=bool)
    for usage, limit in zip(usages, limits, strict=True):
        whole = np.array_equal(usage, np.round(usage))
        keep &= sums(usage, plans) <= (limit if whole else limit * (1 + ROUNDING))
    return keep


def least_cost(costs, plans, worst):
    """Least sum, or least largest sum, of costs given as `[L, W]` by set; infinite where there is no plan."""
    if len(plans) == 0:
        return np.inf
    by_set = np.array([sums(cost, plans) for cost in costs])
    return (by_set.max(axis=0) if worst else by_set.sum(axis=0)).min()
