"""Models of the zoo by name, where no data set has been drawn."""

import numpy as np
import pytest
import torch

from fisher_detr import model_zoo
from fisher_detr.checkpoint import load_tensors
from fisher_detr.model_zoo import entries, entry, get, get_config
from fisher_detr.quantization import quantized_layers


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A folder without data sets and configs."""
    monkeypatch.chdir(tmp_path)


def test_all_names_are_listed():
    assert model_zoo.list() == [found.name for found in entries()]


def test_config_with_the_settings_of_the_command():
    cfg = get_config("street_detr_small_fisher_critical_person_3bit")
    assert (cfg.ALLOCATION.ARM, cfg.ALLOCATION.AVERAGE_BITS) == ("fisher_critical", 3.0)
    assert cfg.DATASETS.TEST == ("street_test",) and cfg.MODEL.DETR.NUM_CLASSES == 21
    assert cfg.MODEL.WEIGHTS == "zoo://street_detr_small_fisher_critical_person_3bit"


@pytest.mark.parametrize("name", [found.name for found in entries() if found.file])
def test_published_models_are_built_with_their_weights(name):
    model = get(name)
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == entry(name).parameters
    stored = load_tensors(f"zoo://{name}")["model"]
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert bool(quantized_layers(model)) == bool(entry(name).quantization)
    picture = np.random.default_rng(0).integers(0, 255, (3, 96, 128)).astype(np.float32)
    with torch.no_grad():
        (output,) = model([{"image": torch.from_numpy(picture)}])
    assert output["instances"].pred_classes.max() < model.num_classes
    assert model.num_classes == len(entry(name).categories)


def test_untrained():
    trained, new = get("street_detr_small"), get("street_detr_small", trained=False)
    assert new.state_dict().keys() == trained.state_dict().keys() and not new.training
    assert not torch.equal(new.class_embed.weight, trained.class_embed.weight)


def test_official_models_name_their_converter():
    assert get("detr_r50_coco", trained=False).num_classes == 80
    with pytest.raises(ValueError, match=r"no weights: convert .*tools/convert_checkpoint.py detr-r50-"):
        get("detr_r50_coco")
