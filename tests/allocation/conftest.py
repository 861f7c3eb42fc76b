import numpy as np
import pytest

from fisher_detr.structures import LayerInfo

WIDTHS = (2, 3, 4, 5, 6, 7, 8)


class Problem:
    """Layers with sensitivities that fall by about four with every bit."""

    def __init__(self, seed, num_layers, decades=4, largest=6.4, widths=WIDTHS):
        rng = np.random.default_rng(seed)
        counts = 10 ** rng.uniform(2, largest, num_layers)
        self.layers = tuple(
            LayerInfo(f"layer{i}", int(n), int(rng.integers(1, 512))) for i, n in enumerate(counts)
        )
        self.widths = widths
        level = 10 ** rng.uniform(-decades / 2, decades / 2, (num_layers, 1))
        noise = np.exp(rng.normal(0, 0.3, (num_layers, len(widths))))
        self.cost = level * 4.0 ** -np.array(widths) * noise
        self.sizes = np.array([[layer.size_bytes(bits) for bits in widths] for layer in self.layers])

    def cost_of(self, plan):
        columns = [self.widths.index(plan.bits[layer.name]) for layer in self.layers]
        return self.cost[np.arange(len(columns)), columns].sum()


@pytest.fixture
def problem():
    return Problem
