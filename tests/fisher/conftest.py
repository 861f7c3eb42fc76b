"""A small network with what real ones have: a layer used twice, an unused one, dead units, two objectives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fisher_detr.structures import LayerInfo


class ToyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 4)

    def forward(self, image):
        hidden = F.relu(self.conv(image)).mean(dim=(-2, -1))
        return self.head(self.twice(torch.tanh(self.twice(hidden))))


class Toy:
    """The network with a loss of two objectives, its weights, and eight images."""

    objectives = ("overall", "critical")

    def __init__(self, dtype=torch.float64):
        torch.manual_seed(0)
        self.model = ToyNet().eval().to(dtype)
        self.model.conv.bias.data[0] = -100.0  # a dead unit
        self.parameters = {
            name: getattr(self.model, name).weight for name in ("conv", "twice", "head", "unused")
        }
        self.samples = [
            (torch.randn(2, 5, 5).to(dtype), torch.tensor(int(label))) for label in torch.randint(3, (8,))
        ]
        self.layers = tuple(LayerInfo(k, w.numel(), w.shape[0]) for k, w in self.parameters.items())

    @property
    def batches(self):
        """Two full ones and the rest."""
        return [self.samples[:3], self.samples[3:6], self.samples[6:]]

    def loss(self, batch):
        images, labels = (torch.stack(parts) for parts in zip(*batch, strict=True))
        logits = self.model(images)
        return {
            "overall": F.cross_entropy(logits, labels, reduction="none"),
            "critical": F.binary_cross_entropy_with_logits(
                logits[:, 0], (labels == 0).to(logits), reduction="none"
            ),
        }

    def loss_alone(self, sample):
        """Of one image, as scalars."""
        return {objective: loss.sum() for objective, loss in self.loss([sample]).items()}

    def error(self, name, bits):
        weight = self.parameters[name]
        step = weight.abs().max() / (2 ** (bits - 1) - 1)
        return torch.round(weight / step) * step - weight


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def toy32():
    return Toy(torch.float32)
