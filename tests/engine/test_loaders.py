"""The loaders that a config describes."""

import itertools

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.engine import load_config
from fisher_detr.engine.loaders import build_test_loader, build_train_loader, training_records
from tests.engine.tiny_coco import make_tiny_coco, write_config

NAME, EMPTY = "tiny_loaded", "tiny_loaded_without_images"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_coco(folder / "data")
    return write_config(folder / "tiny.yaml", folder / "data", folder / "output", NAME)


@pytest.fixture
def read(config, monkeypatch):
    """Load the config with overrides; there is a data set without images."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    DatasetCatalog.register(EMPTY, list)
    return lambda *words: load_config(str(config), [str(word) for word in words])


def image_ids(loader, count):
    return [[image["image_id"] for image in batch] for batch in itertools.islice(loader, count)]


def test_an_epoch_has_all_images_of_all_sets(read):
    """Each image of two sets, which are the same one here, comes twice."""
    cfg = read("DATASETS.TRAIN", f"('{NAME}', '{NAME}')", "SOLVER.IMS_PER_BATCH", 4)
    ids = list(itertools.chain(*image_ids(build_train_loader(cfg), 4)))
    assert sorted(ids) == sorted([*range(1, 9), *range(1, 9)])


def test_images_without_objects_are_left_out_where_asked(read):
    """Of the eight images, 1 and 5 have none."""
    cfg = read("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True)
    assert [record["image_id"] for record in training_records(cfg)] == [2, 3, 4, 6, 7, 8]
    assert len(training_records(read())) == 8


def test_rare_categories_more_often(read):
    """Each category is in half of the images or less: sqrt(4 / 0.5) = 2.8 times an epoch, or more."""
    options = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 4.0)
    ids = list(itertools.chain(*image_ids(build_train_loader(read(*options)), 60)))
    objects = sum(i not in (1, 5) for i in ids) / 6
    nothing = sum(i in (1, 5) for i in ids) / 2
    assert objects > 2 * nothing > 0


def test_the_seed_is_the_config_s(read):
    first, again, other = (image_ids(build_train_loader(read("SEED", seed)), 4) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("name", ["RandomSubsetTrainingSampler", "Sampler"])
def test_other_samplers_are_refused(read, name):
    with pytest.raises(ValueError, match=f"SAMPLER_TRAIN is '{name}', expected one of TrainingSampler, Repe"):
        read("DATALOADER.SAMPLER_TRAIN", name)


def test_no_images(read):
    cfg = read("DATASETS.TRAIN", f"('{EMPTY}',)", "DATASETS.TEST", f"('{EMPTY}',)", "CRITICAL.SETS", "()")
    with pytest.raises(ValueError, match=f"DATASETS.TRAIN {EMPTY}: no image to train on; add some, or set"):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match=f"data set '{EMPTY}' has no image to test on: name another one"):
        build_test_loader(cfg, EMPTY)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty: name the data sets to train on"):
        build_train_loader(cfg)
