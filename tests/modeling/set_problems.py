"""Random predictions and objects in float64 for the tests of matcher and criterion."""

import torch

from fisher_detr.modeling import Predictions, Targets

NUM_CLASSES = 5


def random_boxes(shape, generator):
    """Boxes inside the unit square with sides of at least 0.2."""
    size = 0.2 + 0.3 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    center = size / 2 + torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * (1 - size)
    return torch.cat([center, size], dim=-1)


def random_problem(counts, layers=2, groups=2, queries=4, seed=0, columns=NUM_CLASSES + 1):
    """Predictions of `len(counts)` images, image i having `counts[i]` objects."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, len(counts), groups, queries)
    logits = torch.randn(*shape, columns, generator=generator, dtype=torch.float64)
    targets = [
        Targets(
            torch.randint(0, NUM_CLASSES, (count,), generator=generator), random_boxes((count,), generator)
        )
        for count in counts
    ]
    return Predictions(logits, random_boxes(shape, generator)), targets


def as_lists(targets):
    """Targets as the oracles take them."""
    return [(target.classes.tolist(), target.boxes.tolist()) for target in targets]
