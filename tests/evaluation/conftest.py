"""A toy data set and models that answer what a test wants."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from fisher_detr.data import register_from_config_strings


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Registers COCO content (or a file) under a name; the catalogs forget it afterwards."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))

    def run(content, name="toy"):
        path = content
        if isinstance(content, dict):
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(content))
        register_from_config_strings([f"{name}:{path}:{tmp_path}"])
        return name

    return run


def make_instances(boxes, scores, classes, size=(100, 100)):
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def make_queries(boxes, logits, size=(100, 100)):
    boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return Instances(size, pred_boxes=boxes, logits=torch.as_tensor(logits))
