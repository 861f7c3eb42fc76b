"""Mistakes in the trainer's settings are named before anything is built."""

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr import add_fisher_detr_config
from fisher_detr.engine.trainer_check import trainer_mistakes

CLASSES = ["pedestrian", "cyclist", "car"]


@pytest.fixture(autouse=True)
def data_sets(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    for name in ("val", "other", "unread"):
        DatasetCatalog.register(name, list)
    for name in ("val", "other"):
        metadata = MetadataCatalog.get(name).set(thing_supercategories=["person", "person", "vehicle"])
        metadata.set(thing_classes=CLASSES, thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 3: 2})


def mistakes(*overrides):
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.DATASETS.TEST = ("val",)
    cfg.merge_from_list(list(overrides))
    return list(trainer_mistakes(cfg))


def test_defaults_are_no_mistake():
    assert mistakes() == []


@pytest.mark.parametrize(
    ("steps", "images", "ranks", "expected"),
    [
        (0, 16, 1, "ACCUMULATION_STEPS is 0, expected 1 or more"),
        (2, 7, 1, "is 7, which cannot be split evenly into 2 micro-batches (SOLVER.ACCUMULATION_STEPS) of 1"),
        (4, 12, 2, "of 2 processes: set it to a multiple of 8"),
        (1, 7, 2, ""),  # the loader's concern
        (4, 16, 2, ""),
    ],
)
def test_accumulation(monkeypatch, steps, images, ranks, expected):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: ranks)
    found = mistakes("SOLVER.ACCUMULATION_STEPS", steps, "SOLVER.IMS_PER_BATCH", images)
    assert len(found) == bool(expected)
    assert expected in "".join(found)


def test_the_batch_that_detectron2_fits_to_the_ranks(monkeypatch):
    """16 images for 8 ranks are 2 on each, however many there are."""
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    batch = ("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16)
    assert mistakes(*batch, "SOLVER.ACCUMULATION_STEPS", 2) == []
    assert len(mistakes(*batch, "SOLVER.ACCUMULATION_STEPS", 4)) == 1


@pytest.mark.parametrize("decay", [0.0, 1.0, float("nan")])
def test_decay(decay):
    assert mistakes("MODEL_EMA.DECAY", decay) == []
    (found,) = mistakes("MODEL_EMA.DECAY", decay, "MODEL_EMA.ENABLED", True)
    assert found == f"MODEL_EMA.DECAY is {decay:g}, expected above 0 and below 1"


AVERAGED = ("MODEL_EMA.ENABLED", True)
BOTH = ("DATASETS.TEST", ("val", "other"))
NAMED = ("CRITICAL.SETS", ("supercategories", "road=car"))


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("bbox/AP", ()),
        ("bbox/APcrit50_person", ()),
        ("bbox/APcat_cyclist", ()),
        ("bbox/AP_road", NAMED),
        ("ema/bbox/APl", AVERAGED),
        ("other/bbox/APcrit_vehicle", BOTH),
        ("ema/other/bbox/AP", (*AVERAGED, *BOTH)),
        ("segm/whatever", ("DATASETS.TEST", ("unread",))),  # only the evaluation will tell
    ],
)
def test_metrics_that_there_are(metric, options):
    assert mistakes("TEST.BEST_METRIC", metric, *options) == []


@pytest.mark.parametrize(
    ("metric", "options", "expected"),
    [
        ("APcrit_person", (), "which no evaluation gives, did you mean bbox/APcrit_person or"),
        ("bbox/APcrit_persn", (), "did you mean bbox/APcrit_person or"),
        ("bbox/AP_road", (), "'bbox/AP_road', which no evaluation gives"),
        ("mIoU", (), "did you mean bbox/AP or"),
        ("ema/bbox/AP", (), "MODEL_EMA.ENABLED is False: set it to True"),
        ("bbox/AP", BOTH, "did you mean val/bbox/AP or"),
        ("bbox/AP", ("DATASETS.TEST", ()), "DATASETS.TEST is empty"),
    ],
)
def test_metrics_that_there_are_not(metric, options, expected):
    (found,) = mistakes("TEST.BEST_METRIC", metric, *options)
    assert found.startswith(f"TEST.BEST_METRIC is '{metric}'")
    assert expected in found
