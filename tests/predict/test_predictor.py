"""The predictor finds what the evaluation finds, whatever file the model is in."""

import json

import cv2
import numpy as np
import onnx
import pytest
import torch
from detectron2.data import DatasetCatalog

from fisher_detr import model_zoo
from fisher_detr.checkpoint import load_tensors, save_weights
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.engine import Trainer, exporting, load_config, load_float, read_config
from fisher_detr.predict import Predictor
from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.conftest import REPOSITORY
from tests.engine.tiny_coco import make_tiny_coco, write_config

CATEGORIES = {"cat": "animal", "dog": "animal", "car": "vehicle"}
SETTINGS = ["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 96]
ZOO = "zoo://street_deformable_detr_small"


@pytest.fixture
def run(tmp_path):
    """Folder of a run: random weights, with the config beside them."""
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", tmp_path.name)
    cfg = load_config(str(config), SETTINGS)
    torch.manual_seed(3)
    model = Trainer.build_float_model(cfg).eval()
    save_weights(tmp_path / "output", "model_final", model, {"config": cfg.dump(), "categories": CATEGORIES})
    (tmp_path / "output" / "config.yaml").write_text(cfg.dump())
    return tmp_path / "output"


def picture(run):
    return cv2.imread(str(run.parent / "data" / "3.png"))


def same(found, expected):
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def test_it_finds_what_the_evaluation_finds(run):
    """Colours, sizes and boxes are those of the mapper and the model."""
    cfg = load_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / "model_final.pth")])
    record = next(x for x in DatasetCatalog.get(run.parent.name) if x["file_name"].endswith("3.png"))
    with torch.no_grad():
        (expected,) = load_float(cfg)([DetrDatasetMapper(cfg, is_train=False)(record)])
    found = Predictor(run / "model_final.pth")(picture(run))
    same(found, expected["instances"])
    assert found.image_size == (64, 64)


def test_config_from_the_file_its_folder_or_the_user(run):
    expected = Predictor(run / "model_final.pth")
    assert expected.metadata.thing_classes == list(CATEGORIES) and expected.critical == "animal"
    bare = run / "bare.pth"
    torch.save({"model": load_tensors(run / "model_final.pth")["model"]}, bare)
    beside = Predictor(bare)
    assert beside.metadata.thing_supercategories == ["animal", "animal", "vehicle"]
    same(beside(picture(run)), expected(picture(run)))
    config = (run / "config.yaml").rename(run.parent / "elsewhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"bare.pth does not tell its config, .* no \S*config.yaml"):
        Predictor(bare)
    same(Predictor(bare, str(config))(picture(run)), expected(picture(run)))


@pytest.mark.parametrize("config", ["_BASE_: other.yaml", ["SEED: 1"]])
def test_a_config_in_a_file_opens_no_other(run, config):
    stored = load_tensors(run / "model_final.pth")
    torch.save(stored | {"info": {"config": config}}, run / "strange.pth")
    with pytest.raises(ValueError, match=r"config in \S+strange.pth is not one that stands by itself: name"):
        Predictor(run / "strange.pth")


def test_names_that_nobody_knows_are_numbers(run, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save({"model": load_tensors(run / "model_final.pth")["model"]}, bare)
    config = tmp_path / "numbered.yaml"
    text = (run / "config.yaml").read_text().replace("NUM_CLASSES: 0", "NUM_CLASSES: 3", 1)
    config.write_text(
        text.replace(f"- {run.parent.name}", "- nowhere")
        .replace(f"{run.parent.name}:", "nowhere:")
        .replace("annotations.json", "gone.json")
    )
    assert Predictor(bare, str(config)).metadata.thing_classes == ["class 0", "class 1", "class 2"]


def test_official_checkpoints(tmp_path):
    """Under the config of their data set, whose names are known where the data are not."""
    torch.save({"model": small_tensors("detr_r50")}, tmp_path / "official.pth")
    cfg = read_config(str(REPOSITORY / "configs" / "coco" / "detr_r50.yaml"), SMALL_SETTINGS)
    (tmp_path / "small.yaml").write_text(cfg.dump())
    predictor = Predictor(tmp_path / "official.pth", str(tmp_path / "small.yaml"), "cpu")
    assert predictor.metadata.thing_classes[:2] == ["person", "bicycle"]
    found = predictor(np.full((60, 80, 3), 90, np.uint8))
    assert len(found) == 6 and found.pred_classes.max() < 80


@pytest.mark.parametrize("suffix", ["float", "uniform_4bit"])
def test_models_of_the_zoo(suffix):
    """By name and by path; a packed file tells what it is by itself."""
    name = ZOO.removeprefix("zoo://") if suffix == "float" else "street_detr_small_uniform_4bit"
    predictor = Predictor(f"zoo://{name}")
    image = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    found = predictor(image)
    assert predictor.metadata.thing_classes[:2] == ["pedestrian", "child"]
    assert found.image_size == (100, 200) and not found.pred_boxes.tensor.isnan().any()
    path = model_zoo.weights_path(name)
    if suffix != "float":
        same(Predictor(path)(image), found)


@pytest.fixture
def exported(run):
    """The run's model in an ONNX file."""
    config = [*SETTINGS, "MODEL.WEIGHTS", str(run / "model_final.pth")]
    path = run / "model.onnx"
    request = exporting.ExportRequest(path, verify_images=2)
    exporting.export_from_config(load_config(str(run / "config.yaml"), config), request)
    return path


def test_exported_models_find_the_same(run, exported):
    """The file tells its config and its categories by itself."""
    exported = exported.rename(run.parent / "alone.onnx")
    predictor = Predictor(exported)
    assert predictor.metadata.thing_classes == list(CATEGORIES) and predictor.critical == "animal"
    for image in (picture(run), cv2.resize(picture(run), (100, 70))):
        found, expected = predictor(image), Predictor(run / "model_final.pth")(image)
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=0.01)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)


def test_a_file_that_tells_the_names_alone(run, exported):
    """Its config is then the user's to name."""
    with_metadata(exported, fisher_detr=json.dumps(metadata_of(exported) | {"config": None}))
    predictor = Predictor(exported, str(run / "config.yaml"))
    assert predictor.metadata.thing_classes == list(CATEGORIES)


def test_onnx_mistakes(run, exported):
    with pytest.raises(FileNotFoundError, match="ONNX model none.onnx does not exist"):
        Predictor("none.onnx")
    broken = run / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cannot read ONNX model \S*broken.onnx \(.*\): ex") as caught:
        Predictor(broken)
    assert "\n" not in str(caught.value)
    for stored in ("[1]", "no JSON"):
        with_metadata(exported, fisher_detr=stored)
        with pytest.raises(ValueError, match=r"model.onnx was not exported by this package: make it with"):
            Predictor(exported)


def metadata_of(path):
    return json.loads(onnx.load(str(path)).metadata_props[0].value)


def with_metadata(path, **values):
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, values)
    onnx.save(model, str(path))
