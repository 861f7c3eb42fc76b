"""The Python of the pages runs, on what its page says is there."""

import cv2
import numpy as np

from fisher_detr.engine import load_config
from fisher_detr.model_zoo import catalog
from fisher_detr.structures import BitAllocation, LayerInfo
from tests.data.layouts import use_tree, write_coco_tree
from tests.docs.pages import REPOSITORY, blocks
from tests.tools.driver import QUANTIZE, Work


def python_of(page):
    return [block for block in blocks(REPOSITORY / page) if block.kind == "python"]


def test_allocation(reader):
    layers = tuple(LayerInfo(name, 300_000, 64) for name in ("backbone.stem.conv1", "a", "b"))
    person, sign = np.random.default_rng(0).random((2, 3, 4)).cumsum(axis=2)[..., ::-1]
    reader.names |= {"layers": layers, "person": person, "sign": sign}
    reader.follow(python_of("docs/allocation.md"))
    plan = reader.names["plan"]
    assert isinstance(plan, BitAllocation) and plan.bits["backbone.stem.conv1"] == 8
    assert "predicted cost (sign): " in reader.printed


def test_packed(reader, tmp_path):
    work = Work(tmp_path, "tiny_packed")
    work.run()
    quantized = reader.folder / "output/street/detr_small_ptq"
    weights = ["MODEL.WEIGHTS", work.output / "model_final.pth"]
    work.run(*QUANTIZE, *weights, "ALLOCATION.ARM", "uniform", "OUTPUT_DIR", quantized)
    reader.follow(python_of("docs/packed.md"))
    assert set(reader.names["packed"].bits.values()) == {4}


def test_training(reader, tmp_path):
    work = Work(tmp_path, "tiny_hook")
    reader.names["cfg"] = load_config(str(work.config))
    reader.follow(python_of("docs/training.md"))
    assert "weight_norm" in (work.output / "metrics.json").read_text()


def test_publish(reader, tmp_path, monkeypatch):
    """With an entry of that name."""
    entry = catalog.ENTRIES / "street_detr_small.yaml"
    text = entry.read_text().replace("name: street_detr_small\n", "name: mine\n")
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(catalog, "ENTRIES", tmp_path)
    reader.follow(python_of("docs/publish.md"))


def test_readme(reader, monkeypatch):
    write_coco_tree(reader.folder / "datasets")
    use_tree(monkeypatch, reader.folder / "datasets")
    cv2.imwrite(str(reader.folder / "street.png"), np.full((160, 256, 3), 99, np.uint8))
    reader.follow(python_of("README.md"))
    assert {"pred_boxes", "scores", "pred_classes"} <= reader.names["instances"].get_fields().keys()


def test_datasets(reader):
    reader.follow(python_of("datasets/README.md"))
    assert reader.names["image"].shape == (160, 256, 3)
