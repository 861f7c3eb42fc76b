"""The predictor finds what the evaluation finds, whatever file the model is in."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from fisher_detr import model_zoo
from fisher_detr.checkpoint import load_tensors, save_weights
from fisher_detr.data import DetrDatasetMapper
from fisher_detr.engine import Trainer, load_config, load_float, read_config
from fisher_detr.predict import Predictor
from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.conftest import REPOSITORY
from tests.engine.tiny_coco import make_tiny_coco, write_config
from tests.predict.onnx_models import write_onnx

CATEGORIES = {"cat": "animal", "dog": "animal", "car": "vehicle"}
ZOO = "zoo://street_deformable_detr_small"


@pytest.fixture
def run(tmp_path):
    """Folder of a run: random weights, with the config beside them."""
    make_tiny_coco(tmp_path / "data")
    config = write_config(tmp_path / "tiny.yaml", tmp_path / "data", tmp_path / "output", tmp_path.name)
    cfg = load_config(str(config), ["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 96])
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


def test_onnx(run, tmp_path):
    """The image arrives as the mapper makes it, and the box comes back in its size."""
    info = {"config": (run / "config.yaml").read_text(), "categories": CATEGORIES}
    predictor = Predictor(write_onnx(tmp_path / "one.onnx", info))
    assert predictor.metadata.thing_classes == list(CATEGORIES)
    image = np.full((48, 96, 3), 51, np.uint8)  # resized to 48 x 96: the longer side is at its limit
    found = predictor(image)
    assert found.pred_boxes.tensor.tolist() == [[2, 4, 48, 24]]
    assert found.scores.tolist() == pytest.approx([0.2]) and found.pred_classes.tolist() == [1]
    twice = predictor(np.full((96, 192, 3), 51, np.uint8))
    assert twice.pred_boxes.tensor.tolist() == [[4, 8, 96, 48]]
    sized = Predictor(write_onnx(tmp_path / "sized.onnx", info, sizes=True))(image)
    assert sized.pred_boxes.tensor.tolist() == [[2, 4, 96, 24]]


def test_a_file_that_tells_the_names_alone(run, tmp_path):
    """Its config is then the user's to name."""
    path = write_onnx(tmp_path / "names.onnx", {"categories": ["a", "b", "c"]})
    predictor = Predictor(path, str(run / "config.yaml"))
    assert predictor.metadata.thing_classes == ["a", "b", "c"]
    assert predictor.metadata.thing_supercategories == ["", "", ""]


def test_onnx_mistakes(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="ONNX model none.onnx does not exist"):
        Predictor("none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"cannot read ONNX model \S*broken.onnx \(.*\): ex") as caught:
        Predictor(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)
    path = write_onnx(tmp_path / "other.onnx", {}, ("boxes", "scores", "labels"))
    with pytest.raises(ValueError, match=r"has no output classes \(it has boxes, scores, labels\)"):
        Predictor(path)
    path = write_onnx(tmp_path / "list.onnx", [1])
    with pytest.raises(ValueError, match=r"metadata 'fisher_detr' of \S+list.onnx is no JSON object"):
        Predictor(path)
    path = write_onnx(tmp_path / "silent.onnx")
    with pytest.raises(FileNotFoundError, match="silent.onnx does not tell its config"):
        Predictor(path)
    same(
        Predictor(path, str(run / "config.yaml"))(picture(run)),
        Predictor(path, str(run / "config.yaml"))(picture(run)),
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_images_of_another_kind(run, image):
    with pytest.raises(ValueError, match=r"image is \w+ \[.*\], expected uint8 \[H, W, 3\]: use cv2.imread"):
        Predictor(run / "model_final.pth")(image)


def test_models_that_are_not_there():
    with pytest.raises(FileNotFoundError, match="model none.pth does not exist: check the path, or name one"):
        Predictor("none.pth")
    with pytest.raises(ValueError, match="no entry 'none'"):
        Predictor("zoo://none")
