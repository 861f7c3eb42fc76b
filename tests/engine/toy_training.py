"""A model whose loss is linear in images, and trainings of it."""

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from fisher_detr.engine.micro_batches import MicroBatchTrainer


class Toy(nn.Module):
    """Linear, batch norm, linear: losses are means over images; without the norm each image counts alone."""

    def __init__(self, norm: bool = False):
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.outer = nn.Linear(4, 2)

    def forward(self, batch: list[Tensor]) -> dict[str, Tensor]:
        x = self.outer(torch.tanh(self.norm(self.inner(torch.stack(batch)))))
        return {"loss_a": x.square().mean(), "loss_b": (x[:, 0] - 1).abs().mean()}


def make_toy(norm: bool = False, dtype: torch.dtype = torch.float64) -> Toy:
    torch.manual_seed(0)
    return Toy(norm).to(dtype)


def make_batches(count: int, images: int = 4, dtype: torch.dtype = torch.float64) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [list(torch.randn(images, 3, generator=generator, dtype=dtype)) for _ in range(count)]


def make_trainer(
    model: nn.Module, batches: list, parts: int = 1, hooks: tuple = (), sgd: float = 0.0, **options
) -> SimpleTrainer:
    """With `parts` 0 Detectron2's own; SGD where its learning rate is given, because Adam makes a step of the
    rounding of a gradient near 0."""
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, sgd) if sgd else torch.optim.AdamW(parameters, 0.1)
    if not parts:
        trainer = SimpleTrainer(model, batches, optimizer)
    else:
        trainer = MicroBatchTrainer(model, batches, optimizer, parts, **options)
    trainer.register_hooks(list(hooks))
    return trainer


def train(model: nn.Module, batches: list, parts: int = 1, hooks: tuple = (), **options) -> SimpleTrainer:
    trainer = make_trainer(model, batches, parts, hooks, **options)
    trainer.train(0, len(batches))
    return trainer
