"""From arguments to a config: device, data sets, classes, checks, log."""

import argparse
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model

from fisher_detr.critical import resolve_category_set, resolve_category_sets
from fisher_detr.engine import defaults, load_config, setup
from tests.data.layouts import use_tree, write_coco_tree
from tests.engine.tiny_coco import make_tiny_coco, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("defaults")
    make_tiny_coco(root / "data")
    return write_config(root / "tiny.yaml", root / "data", root / "output", name="tiny_defaults")


def test_device_falls_back_with_one_log_line(config, monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(defaults.logger, "warning", lambda message, *args: told.append(message % args))
    assert load_config(str(config), ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cpu"
    assert told == ["MODEL.DEVICE is cuda and this machine has no GPU: running on the CPU"]


def test_device_stays_where_there_is_one(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_config(str(config), ["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"


def test_number_of_classes_comes_from_the_data_set(config):
    cfg = load_config(str(config))
    assert cfg.MODEL.DETR.NUM_CLASSES == 0
    assert build_model(cfg).class_embed.out_features == 3 + 1


def test_mistakes_of_several_kinds_are_told_together(config):
    overrides = ["ALLOCATION.ARM", "best", "CRITICAL.TARGET", "cats", "MODEL.DETR.NUM_CLASSES", "7"]
    overrides += ["QUANT.ACTIVATION.BITS", "1", "DATASETS.TEST", "('tiny_default',)", "QUANT.ENABLED", "True"]
    with pytest.raises(ValueError) as error:
        load_config(str(config), overrides)
    for part in (
        "ALLOCATION.ARM is 'best'",
        "CRITICAL.TARGET, data set 'tiny_defaults': unknown critical category 'cats': did you mean 'cat'",
        "NUM_CLASSES is 7, and data set 'tiny_defaults' has 3 categories",
        "QUANT.ACTIVATION.BITS is 1, expected 2 to 8, or 0",
        "DATASETS.TEST names the unknown data set 'tiny_default', did you mean tiny_defaults",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


QUANTIZE = ["QUANT.ENABLED", "True", "CRITICAL.TARGET", "vehicle"]


def test_coco_by_detectron2s_name(config, tmp_path, monkeypatch):
    """Its super-categories are known by name; where its files are absent that is said at once."""
    use_tree(monkeypatch, tmp_path)
    overrides = ["DATASETS.TRAIN", "('coco_2017_train',)", "DATASETS.TEST", "('coco_2017_val',)"]
    with pytest.raises(
        FileNotFoundError,
        match="train2017.json of data set 'coco_2017_train' does not exist.*DETECTRON2_DATASETS",
    ):
        load_config(str(config), [*overrides, *QUANTIZE])
    write_coco_tree(tmp_path)
    cfg = load_config(str(config), [*overrides, *QUANTIZE])
    (target,) = resolve_category_sets([cfg.CRITICAL.TARGET], MetadataCatalog.get("coco_2017_val"))
    assert len(target) == 8 and target.num_classes == 80, "bicycle to boat"


def test_supercategories_of_data_sets_that_detectron2_registers(config, tmp_path, monkeypatch):
    """Their names are known, their super-categories are read before the target is looked up."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    make_tiny_coco(tmp_path)
    known = {"thing_classes": ["cat", "dog", "car"], "thing_dataset_id_to_contiguous_id": {2: 0, 5: 1, 9: 2}}
    register_coco_instances("known", known, str(tmp_path / "annotations.json"), str(tmp_path))
    on_it = ["DATASETS.REGISTER", (), "DATASETS.TRAIN", ("known",), "DATASETS.TEST", ("known",)]
    cfg = load_config(str(config), [*on_it, *QUANTIZE])
    assert resolve_category_set(cfg.CRITICAL.TARGET, MetadataCatalog.get("known")).indices == (2,)
    with pytest.raises(
        ValueError, match="'known': unknown critical category 'veicle': did you mean 'vehicle'"
    ):
        load_config(str(config), [*on_it, *QUANTIZE, "CRITICAL.TARGET", "veicle"])


def arguments(config, *opts, eval_only=False):
    return argparse.Namespace(config_file=str(config), opts=list(opts), eval_only=eval_only)


@pytest.fixture
def quiet_loggers():
    """Leave the loggers as they were."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "fisher_detr")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate


def test_setup_logs_this_package_once_and_writes_nothing_else(
    config, tmp_path, capsys, monkeypatch, quiet_loggers
):
    """Twice in one process, into two folders: the second run logs to its own folder only."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("one", "two"):
        cfg = setup(arguments(config, "OUTPUT_DIR", str(tmp_path / name), "MODEL.DEVICE", "cuda"))
        assert cfg.is_frozen()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["log.txt"]
        text = (tmp_path / name / "log.txt").read_text()
        for line in ("running on the CPU", "Data set", "NUM_QUERIES: 6"):
            assert text.count(line) <= 1
        assert "running on the CPU" in text
        assert "NUM_QUERIES: 6" in text
        assert capsys.readouterr().out.count("running on the CPU") == 1


def test_setup_seeds(config, tmp_path, quiet_loggers):
    drawn = []
    for _ in range(2):
        setup(arguments(config, "OUTPUT_DIR", str(tmp_path), "SEED", "3"))
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
