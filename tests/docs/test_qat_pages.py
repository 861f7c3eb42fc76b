"""What the pages on quantization-aware training say works as it says."""

import re

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets import register_coco_instances

from fisher_detr import add_fisher_detr_config
from fisher_detr.engine.penalty_term import LOSS_NAME
from fisher_detr.quantization import activation_quantizers, quantized_layers
from tests.docs.pages import REPOSITORY, blocks
from tests.engine import foreign
from tests.engine.tiny_coco import make_tiny_coco

PAGE = (REPOSITORY / "docs" / "qat.md").read_text()


def keys(cfg: CfgNode, prefix: str = "QUANT.QAT.") -> dict[str, list[str]]:
    """Names of the keys of each table of the page, by what stands in its head."""
    found = {prefix: [name for name, value in cfg.items() if not isinstance(value, CfgNode)]}
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            found |= keys(value, f"{prefix}{name}.")
    return found


def test_every_key_has_its_line():
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    tables = {
        head: re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
        for head, rows in re.findall(r"^\| `(QUANT\.QAT\.[A-Z.]*)` \| \|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    }
    assert {head: sorted(names) for head, names in tables.items()} == {
        head: sorted(names) for head, names in keys(cfg.QUANT.QAT).items()
    }


def test_program_trains_a_retinanet(reader, tmp_path):
    """On a model and data that are small enough; the phases are those of the page but for their length."""
    reader.follow(blocks(REPOSITORY / "docs" / "tutorials" / "qat_hook.md"))
    program = reader.names
    make_tiny_coco(tmp_path / "data")
    register_coco_instances("qat_page", {}, str(tmp_path / "data/annotations.json"), str(tmp_path / "data"))
    cfg = foreign.retinanet_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("qat_page",), ()
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 64
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 8, ()
    cfg.SOLVER.CHECKPOINT_PERIOD = 6
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(tmp_path)
    program["OBSERVE_ITERS"] = 3
    kept = []
    program["QuantizedTrainer"].train = lambda self: kept.append(self) or super(type(self), self).train()
    model = program["train"](cfg)
    layers = quantized_layers(model)
    assert {layer.weight_quantizer.spec.bits for layer in layers.values()} == {4}
    assert "head.cls_score" not in layers and "head.cls_subnet.0" in layers
    assert all(quantizer.is_calibrated for quantizer in activation_quantizers(model).values())
    found = [(i, value) for value, i in kept[0].storage.history(LOSS_NAME).values()]
    assert [iteration for iteration, _ in found] == [3, 7]
    assert found[0][1] == pytest.approx(0.1)

    cfg.SOLVER.MAX_ITER = 12
    program["train"](cfg, resume=True)
    assert [i for _, i in kept[1].storage.history(LOSS_NAME).values()] == [11]
