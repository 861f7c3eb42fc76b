"""What `CriticalCategoryEvaluator` reports, by name, before anything is evaluated."""

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from fisher_detr.critical import metric_names
from fisher_detr.data import dataset_ids
from fisher_detr.evaluation.coco import VARIANTS
from fisher_detr.structures import CategorySet

_OVERALL = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def box_metrics(dataset_name: str, category_sets: Sequence[CategorySet]) -> list[str]:
    """Names below "bbox" of the metrics of a model that gives its queries' logits.

    Args:
        dataset_name: a data set whose metadata tell its categories.
        category_sets: to be evaluated.
    """
    names = list(_OVERALL)
    for category_set in category_sets:
        for prefix in ("AP", "APcrit"):
            names += [f"{prefix}{variant}_{category_set.name}" for variant, _, _ in VARIANTS]
    classes = MetadataCatalog.get(dataset_name).thing_classes
    return names + [f"APcat_{name}" for name in metric_names(classes, dataset_ids(dataset_name))]
