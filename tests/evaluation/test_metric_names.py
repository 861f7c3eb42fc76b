"""The names that are told beforehand are those of an evaluation."""

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from fisher_detr.critical import resolve_category_sets
from fisher_detr.data import complete_metadata
from fisher_detr.evaluation import CriticalCategoryEvaluator, box_metrics

CONTENT = {
    "images": [{"id": 7, "file_name": "7.png", "height": 100, "width": 100}],
    "categories": [
        {"id": 3, "name": "cat", "supercategory": "animal"},
        {"id": 9, "name": "dog-like", "supercategory": "animal"},
        {"id": 5, "name": "dog_like", "supercategory": "street vehicle"},
    ],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 40, 40]}],
}
SPECS = ("supercategories", "mine=cat+dog_like")


def test_names_are_those_of_the_evaluator(register):
    name = register(CONTENT)
    evaluator = CriticalCategoryEvaluator(name, SPECS, distributed=False)
    evaluator.reset()
    boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
    output = {
        "instances": Instances(
            (100, 100), pred_boxes=boxes, scores=torch.ones(1), pred_classes=torch.zeros(1, dtype=int)
        ),
        "queries": Instances((100, 100), pred_boxes=boxes, logits=torch.randn(1, 4)),
    }
    evaluator.process([{"image_id": 7}], [output])
    found = evaluator.evaluate()["bbox"]
    complete_metadata(name)
    sets = resolve_category_sets(SPECS, MetadataCatalog.get(name))
    assert sorted(box_metrics(name, sets)) == sorted(found)
    assert {"AP", "APcrit75_street_vehicle", "APS_mine", "APcat_dog_like_5"} <= found.keys()
