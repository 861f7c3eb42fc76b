"""Every committed config is merged, built and stepped once, on small images."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fisher_detr.engine import Trainer, load_config
from tests.modeling.detectors import NUM_CLASSES, make_input

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NO_DATA = ["DATASETS.REGISTER", (), "DATASETS.TRAIN", (), "DATASETS.TEST", ()]


def load(path: Path, *overrides):
    options = [*NO_DATA, "MODEL.DETR.NUM_CLASSES", NUM_CLASSES, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    return load_config(str(path), [*options, *overrides])


PATHS = sorted(CONFIGS.rglob("*.yaml"))
NAMES = [str(path.relative_to(CONFIGS)) for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_config_builds_and_steps(path):
    cfg = load(path)
    model = build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    Trainer.build_lr_scheduler(cfg, optimizer)
    weight = model.transformer.encoder[0].ffn.linear1.weight
    before = weight.detach().clone()
    losses = model([make_input(64, 96, 2, 1), make_input(64, 64, 0, 2)])
    sum(losses.values()).backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    with torch.no_grad():
        (output,) = model.eval()([make_input(64, 96, 0)])
    assert len(output["queries"]) == cfg.MODEL.DETR.NUM_QUERIES


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_leaves_are_thin(path):
    """A leaf says what is its own; a base says what is common."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 40
    assert path.read_text().startswith("#"), "the first line says what the config is for"
    if not path.name.startswith("Base"):
        assert "_BASE_" in path.read_text()


def test_schedule_of_the_base():
    """500 epochs of COCO train2017, the learning rate a tenth after 400, no warm-up."""
    cfg = load(CONFIGS / "Base-DETR.yaml")
    epoch = -(-118287 // cfg.SOLVER.IMS_PER_BATCH)
    last, steps = cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS
    assert last == 500 * epoch
    assert steps == (400 * epoch,)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], cfg.SOLVER.BASE_LR)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    for number, rate in ((0, 1e-4), (399, 1e-4), (401, 1e-5), (499, 1e-5)):
        scheduler.last_epoch = number * epoch
        assert scheduler.get_lr() == pytest.approx([rate])
