"""A training that starts from the backbone of another detector."""

import pytest
import torch

from fisher_detr.checkpoint import load_backbone
from fisher_detr.engine import Trainer, load_config
from tests.checkpoint.official_models import small_model, small_tensors
from tests.checkpoint.small_detr import make_detr
from tests.engine.tiny_coco import make_tiny_coco, write_config
from tests.oracles.official_keys import training_args


def saved(model, path):
    torch.save({"model": model.state_dict(), "iteration": 3}, path)
    return str(path)


def assert_equal(first, second):
    for name, value in first.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, second.state_dict()[name]), name


def test_backbone_is_taken_and_nothing_else(tmp_path):
    donor, model = make_detr(), make_detr(NUM_CLASSES=5, HIDDEN_DIM=32)
    before = model.class_embed.weight.detach().clone()
    load_backbone(model.backbone, saved(donor, tmp_path / "donor.pth"))
    assert_equal(model.backbone, donor.backbone)
    assert torch.equal(model.class_embed.weight, before)


def test_trained_norms_start_frozen_ones(tmp_path):
    """Batch norm counts its batches, frozen batch norm does not."""
    donor, model = make_detr("BN"), make_detr("FrozenBN")
    load_backbone(model.backbone, saved(donor, tmp_path / "donor.pth"))
    assert_equal(model.backbone, donor.backbone)
    load_backbone(donor.backbone, saved(model, tmp_path / "model.pth"))


def test_another_backbone_is_named_and_changes_nothing(tmp_path):
    donor, model = make_detr(), make_detr()
    state = donor.state_dict()
    del state["backbone.stem.conv1.weight"]
    state["backbone.res9.weight"] = torch.zeros(1)
    state["backbone.res2.0.conv1.weight"] = torch.zeros(2, 2)
    torch.save({"model": state}, tmp_path / "donor.pth")
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    with pytest.raises(ValueError, match="donor.pth has another backbone") as error:
        load_backbone(model.backbone, tmp_path / "donor.pth")
    for part in ("no stem.conv1.weight", "unknown res9.weight", "res2.0.conv1.weight of shape (2, 2) for"):
        assert part in str(error.value)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("variant", ["detr_r50", "detr_r50_panoptic", "deformable_two_stage", "dab_r50"])
def test_official_file(tmp_path, variant):
    """The backbone of whatever detector, and nothing else of it."""
    tensors, model = small_tensors(variant), small_model("detr_r50", "MODEL.DETR.NUM_CLASSES", 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({"model": tensors, "args": training_args()}, tmp_path / "official.pth")
    load_backbone(model.backbone, tmp_path / "official.pth")
    body = ("detr." if variant.endswith("panoptic") else "") + "backbone.0.body"
    for here, theirs in {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res5.2.conv3.norm.bias": "layer4.2.bn3.bias",
    }.items():
        assert torch.equal(model.backbone.state_dict()[here], tensors[f"{body}.{theirs}"])
    for name, value in model.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == name.startswith("backbone."), name


def test_official_files_that_do_not_fit(tmp_path):
    model = small_model("detr_r50")
    path = tmp_path / "official.pth"
    torch.save({"model": small_tensors("detr_r101")}, path)
    with pytest.raises(ValueError, match=r"official.pth has another backbone \(unknown res4.10"):
        load_backbone(model.backbone, path)
    torch.save({"model": small_tensors("detr_r50") | {"extra.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="official.pth: looks like DETR, .* no place in it: extra.weight"):
        load_backbone(model.backbone, path)
    torch.save({"backbone.0.body.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="official.pth: not a checkpoint of DETR, Deformable DETR or DAB"):
        load_backbone(model.backbone, path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="check MODEL.BACKBONE.WEIGHTS"):
        load_backbone(make_detr().backbone, tmp_path / "absent.pth")


def test_trainer_starts_from_it_and_resumes_from_its_own(tmp_path):
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", name=tmp_path.name)
    cfg = load_config(str(config))
    donor = Trainer.build_model(cfg)
    cfg.MODEL.BACKBONE.WEIGHTS = saved(donor, tmp_path / "donor.pth")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert_equal(trainer.model.backbone, donor.backbone)
    with torch.no_grad():
        trainer.model.backbone.stem.conv1.weight.zero_()
    trainer.checkpointer.save("model_0000000")
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert not resumed.model.backbone.stem.conv1.weight.any()
