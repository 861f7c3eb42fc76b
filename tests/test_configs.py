"""Every committed config is merged and built, and every kind of model and data set stepped once, shrunk."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from fisher_detr.engine import Trainer, load_config
from tests.modeling.detectors import NUM_CLASSES, make_input

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NO_DATA = ["DATASETS.REGISTER", (), "DATASETS.TRAIN", (), "DATASETS.TEST", ()]
# Small and still every part of the model.
SHRUNK = ["MODEL.DETR.ENC_LAYERS", 1, "MODEL.DETR.DEC_LAYERS", 2, "MODEL.DETR.NUM_QUERIES", 10]
SHALLOW = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]


def load(path: Path, *overrides):
    options = [*NO_DATA, "MODEL.DETR.NUM_CLASSES", NUM_CLASSES, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    return load_config(str(path), [*options, "MODEL.BACKBONE.WEIGHTS", "", *overrides])


PATHS = sorted(CONFIGS.rglob("*.yaml"))
NAMES = [str(path.relative_to(CONFIGS)) for path in PATHS]
MODELS = [p for p in PATHS if not p.stem.startswith("Base-") and not p.stem.endswith(("_ptq", "_qat"))]


def complete(path: Path, folder: Path) -> Path:
    """A config itself; a base that knows no model, on top of DETR's and of a quantization."""
    if "META_ARCHITECTURE" in CfgNode.load_yaml_with_base(str(path)).get("MODEL", {}):
        return path
    whole = folder / path.name
    below = [CONFIGS / "Base-DETR.yaml", CONFIGS / "Base-PTQ.yaml", path]
    whole.write_text(f"_BASE_: {json.dumps([str(part) for part in below])}\n")
    return whole


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_config_builds(path, tmp_path):
    cfg = load(complete(path, tmp_path))
    with torch.device("meta"):  # shapes without numbers
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    groups = Trainer.build_optimizer(cfg, model).param_groups
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)


@pytest.mark.parametrize("path", MODELS, ids=[str(path.relative_to(CONFIGS)) for path in MODELS])
def test_config_steps(path):
    dilated = load(path).MODEL.RESNETS.RES5_DILATION > 1  # which ResNet-18 cannot be
    cfg = load(path, *SHRUNK, *([] if dilated else SHALLOW))
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
        assert f"output/{path.relative_to(CONFIGS).with_suffix('')}" == load(path).OUTPUT_DIR


@pytest.mark.parametrize("path", MODELS, ids=[str(path.relative_to(CONFIGS)) for path in MODELS])
def test_every_model_has_a_low_bit_leaf(path):
    """But for the variants of a model, which its leaf serves with another base."""
    leaf = path.with_name(f"{path.stem}_ptq.yaml")
    variant = any(word in path.stem for word in ("dc5", "refine", "two_stage"))
    assert leaf.exists() != variant
    if leaf.exists():
        cfg = load_config(str(leaf), [*NO_DATA, "MODEL.DEVICE", "cpu"])
        assert cfg.QUANT.ENABLED and cfg.CRITICAL.TARGET


@pytest.mark.parametrize(("name", "epochs"), [("DAB-DETR", 50), ("Deformable-DETR", 50), ("DETR", 500)])
@pytest.mark.parametrize("images", [118287, 2975], ids=["COCO", "Cityscapes"])
def test_schedules(name, epochs, images):
    """Of the originals in epochs: the learning rate a tenth after four fifths."""
    leaf = CONFIGS / "cityscapes" / f"{name.lower().replace('-', '_')}_r50.yaml"
    cfg = load(CONFIGS / f"Base-{name}.yaml" if images == 118287 else leaf)
    epoch = -(-images // cfg.SOLVER.IMS_PER_BATCH)
    assert epochs * epoch == cfg.SOLVER.MAX_ITER
    assert (epochs * 4 // 5 * epoch,) == cfg.SOLVER.STEPS


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
