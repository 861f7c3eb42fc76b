"""A model of two layers with a dict of losses, and penalties that are known beforehand."""

import torch
from torch import Tensor, nn

from fisher_detr.engine import PenaltySettings, prepare
from fisher_detr.fisher import SquaredNorm
from fisher_detr.layers import in_eval_mode
from fisher_detr.quantization import ScaleTraining, activation_quantizers


class Net(nn.Module):
    """Gives losses in training and predictions otherwise; has a batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.outer = nn.Linear(6, 2)

    def forward(self, batch: list[dict]) -> dict[str, Tensor] | Tensor:
        x = torch.stack([sample["x"] for sample in batch])
        x = self.outer(self.drop(torch.tanh(self.norm(self.inner(x)))))
        return {"loss_a": x.square().mean(), "loss_b": x.exp().mean()} if self.training else x


def make_net(
    calibrated: bool = True, scales: ScaleTraining = ScaleTraining.FIXED, dropout: float = 0.5
) -> Net:
    torch.manual_seed(0)
    model = Net()
    model.drop.p = dropout
    prepare(model, bits=4, weights=scales, activations=scales)
    for quantizer in activation_quantizers(model).values() if calibrated else ():
        quantizer.set_range(-2.0, 2.0)
    return model.train()


def make_batch(seed: int = 1, count: int = 3) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(3, generator=generator)} for _ in range(count)]


def own_loss(model: nn.Module, batch: list[dict]) -> Tensor:
    """A loss of the predictions, in eval mode."""
    with in_eval_mode(model):
        return model(batch).square().mean()


class Given:
    """Stands for a penalty of known measurements: these traces, and i + 1 for the gradient of parameter i."""

    def __init__(self, *traces: float, **settings):
        self.settings = PenaltySettings(**({"weight": 2.0, "clip_norm": 0.0, "normalize": False} | settings))
        self.traces = list(traces)
        self.checked, self.measured = [], []

    def layers(self, model: nn.Module) -> None:
        pass

    def check(self, model: nn.Module, batch: list[dict]) -> None:
        self.checked.append(len(batch))

    def measure(self, model: nn.Module, batch: list[dict]) -> SquaredNorm:
        self.measured.append(len(batch))
        return SquaredNorm(torch.tensor(self.traces.pop(0)), tuple(self.gradients(model)))

    @staticmethod
    def gradients(model: nn.Module) -> list[Tensor]:
        return [torch.full_like(p, i + 1.0) for i, p in enumerate(model.parameters())]
