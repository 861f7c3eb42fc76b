"""Settings that contradict each other or the data are named before anything is computed."""

import logging

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr import add_fisher_detr_config
from fisher_detr.engine.config_check import check_config
from fisher_detr.engine.config_merge import merge_config
from fisher_detr.engine.critical_sets import planned_sets, target_set

CLASSES = ["pedestrian", "cyclist", "car"]


@pytest.fixture(autouse=True)
def data_sets(monkeypatch):
    """Registers data sets by their class names; the catalogs forget them afterwards."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))

    def register(name, classes, supercategories=None):
        DatasetCatalog.register(name, list)
        metadata = MetadataCatalog.get(name).set(thing_supercategories=supercategories or [""] * len(classes))
        metadata.set(thing_classes=classes, thing_dataset_id_to_contiguous_id=dict(enumerate(classes)))

    register("train", CLASSES, ["person", "person", "vehicle"])
    register("val", CLASSES)
    return register


def make_cfg(*overrides):
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("val",)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", "a.pth"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    merge_config(cfg, overrides=overrides)
    return cfg


def mistakes(*overrides, splits=("TRAIN", "TEST")):
    with pytest.raises(ValueError) as error:
        check_config(make_cfg(*overrides), splits)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("classes", "difference"),
    [
        (
            ["cyclist", "pedestrian", "car"],
            "class 0 is 'pedestrian' in the first and 'cyclist' in the second",
        ),
        (CLASSES[:2], "class 2 is 'car' in the first and None in the second"),
        ([*CLASSES, "bus"], "class 3 is None in the first and 'bus' in the second"),
    ],
)
@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_data_sets_of_other_categories(data_sets, classes, difference, key):
    """Swapped ids train and evaluate without a word, and give a wrong AP."""
    data_sets("other", classes)
    kept = {"TRAIN": "train", "TEST": "val"}[key]
    found = mistakes(f"DATASETS.{key}", (kept, "other"))
    assert f"data sets 'train' and 'other' have other categories: {difference}" in found
    assert found.count("have other categories") == 1


def test_equal_categories_and_unknown_ones_pass(data_sets):
    check_config(make_cfg())
    DatasetCatalog.register("unread", list)
    check_config(make_cfg("DATASETS.TRAIN", ("unread", "train"), "DATASETS.TEST", ()))


QUANTIZE = ("QUANT.ENABLED", True, "CRITICAL.TARGET", "person")
CONTRADICTIONS = [
    (
        ("ALLOCATION.CRITICAL_SETS", ("pedestrian", "car"), "ALLOCATION.SET_WEIGHTS", (1.0,)),
        "SET_WEIGHTS has 1 weights for 2 ALLOCATION.CRITICAL_SETS: expected one for each, or none",
    ),
    (
        ("ALLOCATION.CRITICAL_SETS", ("pedestrian", "car"), "ALLOCATION.SET_WEIGHTS", (1.0, 0.0)),
        "SET_WEIGHTS is (1.0, 0.0), expected numbers above 0",
    ),
    (("FISHER.BATCH_PIXELS", 0), "FISHER.BATCH_PIXELS is 0, expected 1 or more"),
    (("QUANT.ACTIVATION.PERCENTILE", 50.0), "PERCENTILE is 50, expected above 50 and at most 100"),
    (("QUANT.ACTIVATION.PERCENTILE", 100.5), "PERCENTILE is 100.5, expected above 50"),
    (
        ("QUANT.ATTENTION_PRODUCTS", True, "QUANT.ACTIVATION.BITS", 0),
        "ACTIVATION.BITS is 0: set it to 2 to 8",
    ),
    (("QUANT.CALIBRATION.NUM_IMAGES", 0), "QUANT.CALIBRATION.NUM_IMAGES is 0, expected 1 or more"),
    (("ALLOCATION.MIP_GAP", 1.0), "ALLOCATION.MIP_GAP is 1, expected at least 0 and below 1"),
    (("ALLOCATION.MIP_GAP", float("nan")), "ALLOCATION.MIP_GAP is nan"),
    (("ALLOCATION.TIME_LIMIT", 0), "ALLOCATION.TIME_LIMIT is 0, expected seconds above 0"),
    (("ALLOCATION.ARM", "uniform", "ALLOCATION.AVERAGE_BITS", 3.5), "3.5, expected a whole number"),
    (("ALLOCATION.OVERALL_WEIGHT", -1), "overall_weight -1.0: expected a finite number"),
    (
        ("CRITICAL.TARGET", ""),
        "CRITICAL.TARGET is empty: ALLOCATION.ARM fisher_critical needs a critical set",
    ),
    (("CRITICAL.TARGET", "persn"), "CRITICAL.TARGET, data set 'train': unknown critical category 'persn'"),
]


@pytest.mark.parametrize(("options", "message"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_contradictions_count_where_a_model_is_quantized(options, message):
    assert message in mistakes(*QUANTIZE, *options)
    check_config(make_cfg(*QUANTIZE, *options, "QUANT.ENABLED", False))
    check_config(make_cfg(*QUANTIZE, *options), ("TEST",))


def test_one_stored_file_at_a_time():
    files = ("ALLOCATION.SENSITIVITY_FILE", "s.json", "ALLOCATION.ALLOCATION_FILE", "a.json")
    assert "ALLOCATION.ALLOCATION_FILE are both set" in mistakes(*QUANTIZE, *files)
    check_config(make_cfg(*QUANTIZE, *files[:2]))
    check_config(make_cfg(*QUANTIZE, *files[2:]))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("ALLOCATION.AVERAGE_BITS", 3.5),
        ("ALLOCATION.ARM", "uniform", "CRITICAL.TARGET", ""),
        ("QUANT.ACTIVATION.BITS", 0),
    ],
    ids=str,
)
def test_what_may_be_asked_for(options):
    check_config(make_cfg(*QUANTIZE, *options))


def test_dilation_that_released_checkpoints_do_not_have():
    dilated = ("MODEL.RESNETS.RES5_DILATION", 2, "MODEL.BACKBONE.NAME")
    assert "set it to build_dilated_resnet_backbone" in mistakes(*dilated, "build_resnet_backbone")
    check_config(make_cfg(*dilated, "build_dilated_resnet_backbone"))


def test_mixed_precision_on_the_cpu():
    assert "SOLVER.AMP.ENABLED is True and MODEL.DEVICE cpu" in mistakes("SOLVER.AMP.ENABLED", True)
    check_config(make_cfg("SOLVER.AMP.ENABLED", True, "MODEL.DEVICE", "cuda"))
    check_config(make_cfg("SOLVER.AMP.ENABLED", True), ("TEST",))


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fisher_detr"), "propagate", True)
    caplog.set_level(logging.WARNING, "fisher_detr")

    def of(*overrides, splits=("TRAIN", "TEST")):
        caplog.clear()
        check_config(make_cfg("MODEL.BACKBONE.FREEZE_AT", 0, *overrides), splits)
        return [record.getMessage() for record in caplog.records]

    return of


@pytest.mark.parametrize(
    ("key", "value", "instead"),
    [
        ("SOLVER.NESTEROV", True, "SOLVER.MOMENTUM"),
        ("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.BACKBONE_MULTIPLIER"),
        ("INPUT.CROP.ENABLED", True, "INPUT.DETR_AUG"),
        ("TEST.AUG.ENABLED", True, "once"),
        ("TEST.DETECTIONS_PER_IMAGE", 50, "MODEL.DETR.TOP_K"),
    ],
)
def test_keys_of_detectron2_without_effect(warnings, key, value, instead):
    assert warnings() == []
    (line,) = warnings(key, value)
    assert line.startswith(key.removesuffix(".ENABLED"))
    assert "has no effect here" in line and instead in line


def test_frozen_layers_without_weights(warnings):
    frozen = ("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.WEIGHTS", "")
    (line,) = warnings(*frozen)
    assert "FREEZE_AT is 2, MODEL.WEIGHTS and MODEL.BACKBONE.WEIGHTS are empty" in line
    assert warnings(*frozen, splits=("TEST",)) == []
    assert warnings(*frozen, "MODEL.BACKBONE.WEIGHTS", "detector.pth") == []
    assert warnings("MODEL.BACKBONE.FREEZE_AT", 2) == []


def test_the_target_may_be_a_name_that_the_evaluated_sets_define():
    sets = ("CRITICAL.SETS", ("supercategories", "vru=cyclist", "person=pedestrian"))
    named = ("ALLOCATION.CRITICAL_SETS", ("vru", "vehicle"))
    cfg = make_cfg(*QUANTIZE, "CRITICAL.TARGET", "vru", *sets, *named)
    check_config(cfg, ("TRAIN", "TEST"))
    assert (target_set(cfg).name, target_set(cfg).indices) == ("vru", (1,))
    assert [x.indices for x in planned_sets(cfg)] == [(1,), (2,)]
    cfg = make_cfg(*QUANTIZE, *sets)  # the definition comes before the super-category
    assert target_set(cfg).indices == planned_sets(cfg)[0].indices == (0,)
    assert target_set(make_cfg(*sets)) is None and planned_sets(make_cfg(*sets)) == []
    message = mistakes(*QUANTIZE, *sets, "CRITICAL.TARGET", "vr")
    assert "CRITICAL.TARGET, data set 'train': unknown critical category 'vr'" in message
