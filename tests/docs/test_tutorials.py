"""The tutorials, followed from the first command to the last."""

import torch

from tests.checkpoint.official_models import SMALL_SETTINGS, small_tensors
from tests.data.layouts import write_coco_tree
from tests.docs.clones import DRAW, shrink, with_few_images
from tests.docs.pages import REPOSITORY, blocks

DOCS = REPOSITORY / "docs"
TUTORIALS = DOCS / "tutorials"
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


def test_deploy(reader):
    """With fewer images, to draw and to calibrate on."""
    # `shrink` would resize: the page feeds images as they are.
    own_size = ["INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 256]
    shrink(
        reader.folder / "configs/street/detr_small_ptq.yaml", [*own_size, "QUANT.CALIBRATION.NUM_IMAGES", 8]
    )
    reader.follow(with_few_images(blocks(TUTORIALS / "deploy.md")))
    sizes = {path.stem: path.stat().st_size for path in reader.folder.glob("*.onnx")}
    assert max(sizes["detr_int"], sizes["detr_weights"]) < 0.25 * sizes["detr"]


def test_many_ranks(reader):
    """The commands for one machine, on two processes; those for several machines differ by the launcher."""
    reader.follow(with_few_images([DRAW]))
    shrink(reader.folder / "configs/street/detr_small.yaml", ["SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1])
    one_machine, *_ = [block for block in blocks(DOCS / "distributed.md") if block.kind == "bash"]
    assert "--nproc_per_node 2" in one_machine.text
    reader.follow([one_machine])
    assert {"model_final.pth", "log.txt", "log.txt.rank1"} <= names(
        reader.folder / "output/street/detr_small"
    )
    assert "APcrit_person" in reader.printed
