"""The tutorials, followed from the first command to the last."""

import torch
import yaml

from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.data.layouts import write_coco_tree
from tests.docs.pages import REPOSITORY, blocks

TUTORIALS = REPOSITORY / "docs" / "tutorials"
QUANTIZED_RUN = {"allocation.json", "sensitivity.json", "coverage.json", "model_quantized.pth"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_own_data(reader):
    reader.follow(blocks(TUTORIALS / "own_data.md"))
    assert names(reader.folder / "output/mine_ptq") >= QUANTIZED_RUN


def test_official_checkpoint(reader):
    """The stand-in that the page tells of: all names, few channels, four images."""
    write_coco_tree(reader.folder / "datasets", num_images=4)
    torch.save({"model": small_tensors("detr_r50")}, reader.folder / "detr-r50-e632da11.pth")
    shrink(reader.folder / "configs/Base-DETR.yaml", SMALL_SETTINGS)
    shrink(reader.folder / "configs/Base-PTQ.yaml", ["QUANT.CALIBRATION.NUM_IMAGES", 4])
    reader.follow(blocks(TUTORIALS / "official.md"))
    assert names(reader.folder / "output/coco/detr_r50_ptq") >= QUANTIZED_RUN


def test_evaluator(reader):
    reader.follow(blocks(TUTORIALS / "evaluator.md"))


def shrink(config, settings):
    """Let a config of the clone build a smaller model, on smaller images."""
    content = yaml.safe_load(config.read_text())
    small = ["INPUT.MIN_SIZE_TEST", 128, "INPUT.MAX_SIZE_TEST", 192, "DATALOADER.NUM_WORKERS", 0, *settings]
    for path, value in zip(small[::2], small[1::2], strict=True):
        *above, key = path.split(".")
        node = content
        for name in above:
            node = node.setdefault(name, {})
        node[key] = value
    config.write_text(yaml.safe_dump(content))
