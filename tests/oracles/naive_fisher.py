"""Fisher information by the plainest loop: one image, one objective, one backward, a sum in float64."""

import torch


def image_gradients(loss_fn, parameters, samples):
    """All gradients of all images: objective -> layer -> `[N, numel]` float64."""
    stacks = {}
    for sample in samples:
        for objective in loss_fn(sample):
            for weight in parameters.values():
                weight.grad = None
            loss_fn(sample)[objective].backward()
            for name, weight in parameters.items():
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                stacks.setdefault(objective, {}).setdefault(name, []).append(gradient.double().flatten())
                weight.grad = None
    return {o: {name: torch.stack(rows) for name, rows in of.items()} for o, of in stacks.items()}


def fisher_matrix(left, right):
    """`E[g_left g_right']` of one layer, from `[N, numel]` each."""
    return left.T @ right / len(left)
