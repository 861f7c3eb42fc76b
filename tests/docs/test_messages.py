"""Messages of errors that pages show are those of the programs."""

import argparse

import pytest
import torch
import train_net
from detectron2.utils.events import EventStorage
from torch import nn

from fisher_detr.engine.finite_guard import FiniteGuard
from tests.docs.pages import REPOSITORY, blocks, check_output


def text_of(page, section):
    """The only text block of a section, as the one line that it is."""
    (block,) = [
        block for block in blocks(REPOSITORY / page) if (block.kind, block.section) == ("text", section)
    ]
    return " ".join(block.text.split()), block.place


def nested(path, layer):
    """A module with a layer at a path."""
    name, _, below = path.partition(".")
    module = nn.Module()
    module.add_module(name, nested(below, layer) if below else layer)
    return module


def test_loss_that_is_not_finite(monkeypatch):
    """The page's iteration, losses and layer; everything else is the program's."""
    nan = torch.tensor(float("nan"))
    model = nested("transformer.encoder.3.ffn.linear2", nn.Linear(1, 1))
    layer = model.get_submodule("transformer.encoder.3.ffn.linear2")
    layer.register_forward_hook(lambda *_: nan)
    guard = FiniteGuard(lambda _model, batch: layer(batch))

    def train(_args):
        with EventStorage(start_iter=4711):
            guard(
                model, (torch.zeros(1),), {"loss_ce": torch.tensor(1.0), "loss_bbox": nan, "loss_giou": nan}
            )

    monkeypatch.setattr(train_net, "run_training_command", train)
    with pytest.raises(SystemExit) as stopped:
        train_net.run(argparse.Namespace(num_gpus=0, num_machines=1))
    expected, place = text_of("docs/training.md", "When the loss is not finite")
    check_output(expected, stopped.value.code, place)
