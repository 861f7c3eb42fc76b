"""train_net --eval-only from a file with official names, on a tree in the layout of COCO, unprepared."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import subprocess
from pathlib import Path

import pytest
import torch
import train_net
from detectron2.engine import default_argument_parser

from fisher_detr.checkpoint import COCO_ROWS, PANOPTIC_ROWS, convert_official_file
from fisher_detr.checkpoint.class_rows import known_rows
from fisher_detr.checkpoint.official import take_apart
from fisher_detr.data.coco_panoptic import prepare_coco_panoptic
from fisher_detr.data.metadata import dataset_ids
from fisher_detr.engine import load_config, run_training_command
from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.data.layouts import use_tree, write_coco_panoptic_tree, write_coco_tree
from tests.engine.tiny_coco import make_tiny_coco
from tests.oracles.official_keys import VARIANTS, official_tensors
from tests.tools.driver import command, environment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# The config of each file, and what it needs besides.
CASES = {
    "detr_r50": ("coco/detr_r50.yaml",),
    "detr_r101": ("coco/detr_r101.yaml",),
    "detr_r50_dc5": ("coco/detr_r50_dc5.yaml",),
    "deformable": ("coco/deformable_detr_r50.yaml",),
    "deformable_refine": ("coco/deformable_detr_r50_refine.yaml",),
    "deformable_two_stage": ("coco/deformable_detr_r50_two_stage.yaml",),
    "deformable_single_scale": (
        "coco/deformable_detr_r50.yaml",
        *("MODEL.DEFORMABLE_DETR.NUM_LEVELS", "1", "MODEL.DEFORMABLE_DETR.IN_FEATURES", "('res5',)"),
    ),
    "deformable_r101": ("coco/deformable_detr_r50.yaml", "MODEL.RESNETS.DEPTH", "101"),
    "dab_r50": ("coco/dab_detr_r50.yaml",),
    "dab_r50_patterns": ("coco/dab_detr_r50.yaml", "MODEL.DAB_DETR.NUM_PATTERNS", "3"),
    "dab_r101": ("coco/dab_detr_r50.yaml", "MODEL.RESNETS.DEPTH", "101"),
    "detr_r50_panoptic": ("coco_panoptic/detr_r50.yaml",),
}
ON_COCO = [name for name in CASES if not name.endswith("panoptic")]
PANOPTIC = "coco_2017_val_panoptic_detection"
NO_DATA = ["DATASETS.TRAIN", (), "DATASETS.TEST", ()]
NUM_IMAGES = 4


@pytest.fixture
def coco(tmp_path, monkeypatch):
    write_coco_tree(tmp_path / "datasets", NUM_IMAGES)
    use_tree(monkeypatch, tmp_path / "datasets")


def arguments(tmp_path, variant, weights, *settings):
    config, *needed = CASES[variant]
    # Large enough for 300 proposals.
    small = ["INPUT.MIN_SIZE_TEST", 128, "INPUT.MAX_SIZE_TEST", 192, "DATALOADER.NUM_WORKERS", 0]
    words = [
        "--config-file",
        CONFIGS / config,
        "--eval-only",
        "MODEL.WEIGHTS",
        weights,
        "MODEL.DEVICE",
        "cpu",
    ]
    words += ["OUTPUT_DIR", tmp_path / "output", *small, *needed, *settings]
    return default_argument_parser().parse_args([str(word) for word in words])


def save(path, tensors):
    torch.save({"model": tensors}, path)
    return path


def detections(folder):
    (path,) = folder.glob("inference/*/coco_instances_results.json")
    return json.loads(path.read_text())


def evaluate_and_check(tmp_path, variant, tensors, *settings):
    weights = save(tmp_path / "official.pth", tensors)
    metrics = run_training_command(arguments(tmp_path, variant, weights, *settings))["bbox"]
    assert 0 <= metrics["AP"] < 5  # the weights are random
    found = detections(tmp_path / "output")
    assert {detection["category_id"] for detection in found} <= set(COCO_ROWS.kept)
    assert len({detection["image_id"] for detection in found}) == NUM_IMAGES
    return found


@pytest.mark.parametrize("variant", ON_COCO)
def test_every_official_file(tmp_path, coco, variant):
    """All names and layers, few channels."""
    evaluate_and_check(tmp_path, variant, small_tensors(variant), *SMALL_SETTINGS)


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=[pytest.mark.slow] if name != "detr_r50" else []) for name in ON_COCO],
)
def test_every_official_file_in_full_size(tmp_path, coco, variant):
    evaluate_and_check(tmp_path, variant, official_tensors(**VARIANTS[variant][0]))


def test_panoptic_file(tmp_path, monkeypatch):
    """Things and stuff as detection: 250 rows to 133 categories, in the order that the data set has them."""
    write_coco_panoptic_tree(tmp_path / "datasets", NUM_IMAGES)
    prepare_coco_panoptic(tmp_path / "datasets", ["val"])
    use_tree(monkeypatch, tmp_path / "datasets")
    assert dataset_ids(PANOPTIC) == list(PANOPTIC_ROWS.kept)
    tensors = small_tensors("detr_r50_panoptic")
    tensors["detr.class_embed.bias"][200] = 20  # rug
    weights = save(tmp_path / "official.pth", tensors)
    run_training_command(arguments(tmp_path, "detr_r50_panoptic", weights, *SMALL_SETTINGS))
    assert {detection["category_id"] for detection in detections(tmp_path / "output")} == {200}


def test_command_finds_the_tree_by_its_variable(tmp_path):
    write_coco_tree(tmp_path / "datasets", NUM_IMAGES)
    weights = save(tmp_path / "official.pth", small_tensors("detr_r50"))
    args = arguments(tmp_path, "detr_r50", weights, *SMALL_SETTINGS)
    words = ["--config-file", args.config_file, "--eval-only", *args.opts]
    where = environment() | {"DETECTRON2_DATASETS": str(tmp_path / "datasets")}
    done = subprocess.run(command(*words), env=where, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert detections(tmp_path / "output")


def test_converted_file_detects_the_same(tmp_path, coco):
    direct = evaluate_and_check(
        tmp_path, "deformable_two_stage", small_tensors("deformable_two_stage"), *SMALL_SETTINGS
    )
    convert_official_file(tmp_path / "official.pth", tmp_path / "ours.pth")
    args = arguments(tmp_path, "deformable_two_stage", tmp_path / "ours.pth", *SMALL_SETTINGS)
    run_training_command(args)
    assert detections(tmp_path / "output") == direct


def test_head_of_the_original_decides(tmp_path, coco):
    """Rows for one raw id that score high: its category is what is detected, everywhere."""
    tensors = small_tensors("dab_r50")
    tensors["class_embed.bias"].fill_(-9)
    tensors["class_embed.bias"][90] = 9
    found = evaluate_and_check(tmp_path, "dab_r50", tensors, *SMALL_SETTINGS)
    assert {detection["category_id"] for detection in found if detection["score"] > 0.5} == {90}


@pytest.mark.parametrize(
    ("file", "config", "message"),
    [
        (
            "deformable_two_stage",
            "deformable",
            "use --config-file configs/coco/deformable_detr_r50_two_stage.yaml",
        ),
        ("detr_r101", "detr_r50", "use --config-file configs/coco/detr_r101.yaml"),
    ],
)
def test_wrong_config_is_one_line(tmp_path, coco, file, config, message):
    weights = save(tmp_path / "official.pth", small_tensors(file))
    args = arguments(tmp_path, config, weights, *SMALL_SETTINGS)
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
        train_net.run(args)
    assert stopped.value.code.startswith(f"train_net: checkpoint {weights}: it holds ")
    assert message in stopped.value.code
    assert "\n" not in stopped.value.code


def test_own_data_with_another_number_of_classes_is_one_line(tmp_path):
    make_tiny_coco(tmp_path / "data")
    weights = save(tmp_path / "official.pth", small_tensors("detr_r50"))
    register = f"('three:{tmp_path}/data/annotations.json:{tmp_path}/data',)"
    own = ["DATASETS.REGISTER", register, "DATASETS.TRAIN", "('three',)", "DATASETS.TEST", "('three',)"]
    args = arguments(tmp_path, "detr_r50", weights, *SMALL_SETTINGS, *own)
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
        train_net.run(args)
    assert "91 class rows (COCO's raw ids, 80 classes), the model 3 classes" in stopped.value.code
    assert "--classes reinit --num-classes 3`" in stopped.value.code


@pytest.mark.parametrize("dilation", [True, None])
@pytest.mark.parametrize("variant", VARIANTS)
def test_configs_that_are_named_fit(variant, dilation):
    """What errors and manifests tell to use builds that very architecture."""
    official = take_apart({"model": small_tensors(variant)})
    architecture = dataclasses.replace(official.architecture, dilation=dilation)
    path, settings = architecture.config(known_rows(official.raw_rows).num_classes)
    cfg = load_config(str(CONFIGS.parent / path), [*itertools.chain(*settings.items()), *NO_DATA])
    for key, value in architecture.settings.items():
        assert functools.reduce(getattr, key.split("."), cfg) == value, key
    dilated = cfg.MODEL.BACKBONE.NAME == "build_dilated_resnet_backbone"
    assert dilated == bool(dilation)
    assert ("coco_panoptic" in path) == variant.endswith("panoptic")
