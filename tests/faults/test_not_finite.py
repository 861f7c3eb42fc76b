"""NaN and infinity in a model, wherever they turn up first: one line, and no file that holds them."""

import pytest
import torch

from fisher_detr.checkpoint import load_tensors
from tests.modeling.detectors import make_detector, make_input
from tests.tools.driver import QUANTIZE, contents

NAN_LAYER, HUGE_LAYER = "input_proj.weight", "transformer.encoder.0.ffn.linear1.weight"
OF_IMAGE = r"loss 'overall' of image 0 (image_id 7) is nan: check the image, its labels and the checkpoint"
OF_DETECTIONS = ".png: the model's boxes or scores are NaN or infinite: check the checkpoint"
WITHOUT_FISHER = ("QUANT.WEIGHT.SCALE", "max", "QUANT.WEIGHT.ROUNDING", "nearest")
CASES = {
    "evaluation": (["--eval-only"], OF_DETECTIONS, OF_DETECTIONS),
    "ranges": (
        [*QUANTIZE, "ALLOCATION.ARM", "uniform", *WITHOUT_FISHER],
        "input_proj: weight of shape (16, 16, 1, 1) is not finite: check the checkpoint",
        "image_id 7: transformer.encoder.0.ffn.linear2.input_quantizer: activation values are not finite",
    ),
    "block": (QUANTIZE, OF_IMAGE, OF_IMAGE),
    "hawq": (
        [*QUANTIZE, "ALLOCATION.SENSITIVITY", "hawq_trace", "ALLOCATION.ARM", "hawq"],
        OF_IMAGE,
        OF_IMAGE,
    ),
    "measured": ([*QUANTIZE, "ALLOCATION.SENSITIVITY", "measured"], OF_IMAGE, OF_IMAGE),
    "quantization-aware training": (["QUANT.QAT.ENABLED", "True"], OF_IMAGE, OF_IMAGE),
    "training": (
        [],
        "parameter input_proj.weight became so",
        "it began in transformer.encoder.0.ffn.linear1",
    ),
}


@pytest.fixture(scope="module")
def broken(trained, tmp_path_factory):
    """Two checkpoints: a weight that is NaN, and one with which a layer overflows."""
    folder = tmp_path_factory.mktemp("broken")
    for name, key, value in (("nan", NAN_LAYER, float("nan")), ("huge", HUGE_LAYER, 3e38)):
        state = load_tensors(trained.output / "model_final.pth")["model"]
        state[key].fill_(value)
        torch.save({"model": state}, folder / f"{name}.pth")
    return folder


@pytest.mark.parametrize("weights", ["nan", "huge"])
@pytest.mark.parametrize("case", CASES)
def test_the_driver(trained, broken, tmp_path, case, weights):
    options, *messages = CASES[case]
    found = trained.error(*options, "MODEL.WEIGHTS", broken / f"{weights}.pth", "OUTPUT_DIR", tmp_path)
    assert messages[weights == "huge"] in found
    made = {name for name in contents(tmp_path) if not name.endswith(("config.yaml", ".part"))}
    assert not made


@pytest.mark.parametrize("variant", ["detr", "deformable", "dab"])
@pytest.mark.parametrize("head", ["class", "box"])
def test_detections(variant, head):
    """A score that is NaN would be sorted somewhere, and never be missed."""
    model = make_detector(variant).eval()
    model([make_input(128, 96, 0)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and ("class_embed" if head == "class" else "bbox_embed") in name:
                parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match="boxes or scores are NaN or infinite"):
        model([make_input(128, 96, 0)])
