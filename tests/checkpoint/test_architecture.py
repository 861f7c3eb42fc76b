"""What is told of an architecture: the settings that differ, and the config that builds it."""

import dataclasses
import itertools
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from fisher_detr.checkpoint import Architecture, Family, SafeCheckpointer, spelled
from fisher_detr.checkpoint.recognition import recognise_model, recognise_official, recognise_ours
from fisher_detr.engine import load_config
from tests.checkpoint.official_models import DILATED, SINGLE_SCALE, SMALL_SETTINGS, small_model, small_tensors
from tests.oracles.hf_detectors import build_hf_dab_detr, build_hf_deformable_detr, build_hf_detr
from tests.oracles.hf_names import to_official_names

REPOSITORY = Path(__file__).resolve().parents[2]
NO_DATA = ["DATASETS.TRAIN", (), "DATASETS.TEST", ()]
FEATURES, LEVELS = "MODEL.DEFORMABLE_DETR.IN_FEATURES", "MODEL.DEFORMABLE_DETR.NUM_LEVELS"
OUT_FEATURES = ("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"])


def built_from(path, settings, *more):
    """The model of a config and settings, as they are typed on a command line."""
    typed = shlex.split(spelled(settings))
    cfg = load_config(str(REPOSITORY / path), ["MODEL.DEVICE", "cpu", *NO_DATA, *more, *typed])
    return build_model(cfg).eval()


@pytest.mark.parametrize(
    ("variant", "overrides", "settings"),
    [
        ("detr_r50", [], {}),
        ("detr_r50_dc5", [], {}),
        (
            "dab_r50_patterns",
            ["MODEL.DETR.ENC_LAYERS", 2, "MODEL.DETR.DEC_LAYERS", 3, "MODEL.DETR.QUERY_GROUPS", 2],
            {
                "MODEL.DETR.ENC_LAYERS": 2,
                "MODEL.DETR.DEC_LAYERS": 3,
                "MODEL.DETR.QUERY_GROUPS": 2,
                "MODEL.DAB_DETR.NUM_PATTERNS": 3,
            },
        ),
        ("deformable", [], {}),
        ("deformable", SINGLE_SCALE, {LEVELS: 1, FEATURES: ("res5",)}),
        (
            "deformable",
            [*SINGLE_SCALE, *DILATED],
            {
                LEVELS: 1,
                FEATURES: ("res5",),
                "MODEL.BACKBONE.NAME": "build_dilated_resnet_backbone",
                "MODEL.RESNETS.RES5_DILATION": 2,
            },
        ),
        (
            "deformable_two_stage",
            [FEATURES, ("res4", "res5"), LEVELS, 5],
            {LEVELS: 5, FEATURES: ("res4", "res5")},
        ),
        (
            "deformable_refine",
            [*OUT_FEATURES, FEATURES, ("res2", "res4"), LEVELS, 2],
            {LEVELS: 2, FEATURES: ("res2", "res4"), OUT_FEATURES[0]: tuple(OUT_FEATURES[1])},
        ),
    ],
)
def test_config_builds_what_was_recognised(variant, overrides, settings):
    """A model's weights load, strictly, into the one that its architecture's config and keys build."""
    model = small_model(variant, *overrides)
    architecture = recognise_model(model)
    path, keys = architecture.config()
    assert keys == settings
    found = built_from(path, keys, *SMALL_SETTINGS, "MODEL.DETR.NUM_CLASSES", 80)
    assert recognise_model(found) == architecture
    found.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("family", "build", "title"),
    [
        ("detr", build_hf_detr, "DETR, ResNet-18"),
        ("deformable", build_hf_deformable_detr, "Deformable DETR, ResNet-18"),
        ("dab", build_hf_dab_detr, "DAB-DETR, ResNet-18"),
    ],
)
def test_config_of_a_shallow_model_builds_it(tmp_path, family, build, title):
    """Two layers, on a ResNet whose blocks have two convolutions."""
    official = to_official_names(build(5).state_dict(), family)
    architecture = recognise_official(official)
    assert architecture.title == title
    path, keys = architecture.config()
    assert keys == {
        "MODEL.DETR.ENC_LAYERS": 2,
        "MODEL.DETR.DEC_LAYERS": 2,
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    }
    sizes = {"NUM_CLASSES": 5, "NUM_QUERIES": 10, "HIDDEN_DIM": 32, "DIM_FEEDFORWARD": 64, "NHEADS": 4}
    model = built_from(path, keys, *itertools.chain(*((f"MODEL.DETR.{k}", v) for k, v in sizes.items())))
    torch.save({"model": official}, tmp_path / "a.pth")
    if family == "detr":  # the head has a row for no-object beside its five
        assert official["class_embed.bias"].shape == (6,)
    SafeCheckpointer(model).load(str(tmp_path / "a.pth"))


def test_feature_maps_that_the_weights_do_not_tell():
    """Two stages of as many channels, or no projection of the first level: nothing is claimed."""
    official = small_tensors("deformable")
    assert recognise_official(official).in_features == ("res3", "res4", "res5")
    channels = len(official["backbone.0.body.layer2.0.conv3.weight"])
    alike = official | {"backbone.0.body.layer1.0.conv3.weight": torch.zeros(channels, 4, 1, 1)}
    lost = {key: value for key, value in official.items() if key != "input_proj.0.0.weight"}
    flat = official | {"input_proj.0.0.weight": torch.zeros(32, channels)}
    for state in (alike, lost, flat):
        found = recognise_official(state)
        assert (found.in_features, found.levels) == ((), 4)
        assert FEATURES not in found.settings
        assert not found.conflicts(recognise_official(official))


def test_conflicts_name_what_differs_and_nothing_else():
    one = Architecture(Family.DEFORMABLE, (3, 4, 6, 3), True, 6, 6, levels=4, in_features=("res3", "res4"))
    other = dataclasses.replace(one, encoder_layers=2, levels=1, in_features=("res5",), query_groups=3)
    assert not one.conflicts(one)
    assert one.conflicts(other) == {
        "MODEL.DETR.ENC_LAYERS": 6,
        LEVELS: 4,
        FEATURES: ("res3", "res4"),
    }
    grouped = dataclasses.replace(one, query_groups=1)
    assert grouped.conflicts(other)["MODEL.DETR.QUERY_GROUPS"] == 1
    assert one.conflicts(Architecture(Family.DETR, (3, 4, 6, 3), True, 1, 1)) == {
        "MODEL.META_ARCHITECTURE": "DeformableDetr"
    }


def test_levels_of_a_model_trained_here():
    for overrides, features in (([], ("res3", "res4", "res5")), (SINGLE_SCALE, ("res5",))):
        found = recognise_ours(small_model("deformable", *overrides).state_dict())
        assert (found.levels, found.in_features) == (4 if not overrides else 1, features)


def test_settings_as_they_are_typed():
    settings = {"A.B": 3, "A.C": "focal", "A.D": ("res4", "res5"), "A.E": ("res5",), "A.F": False}
    text = """A.B 3 A.C focal A.D '("res4","res5",)' A.E '("res5",)' A.F False"""
    assert spelled(settings) == text
    assert shlex.split(text)[7] == '("res5",)'
