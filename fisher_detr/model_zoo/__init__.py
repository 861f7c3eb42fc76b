"""Published models: what they are, what they reach, how to make that again, and their weights."""

from fisher_detr.model_zoo.catalog import entries, entry, weights_path, write_entry
from fisher_detr.model_zoo.page import render_page
from fisher_detr.model_zoo.study import Study, describe_study, read_studies
from fisher_detr.model_zoo.zoo_entry import Kind, Measured, Metric, Quantization, Training, ZooEntry

__all__ = [
    "Kind",
    "Measured",
    "Metric",
    "Quantization",
    "Study",
    "Training",
    "ZooEntry",
    "describe_study",
    "entries",
    "entry",
    "read_studies",
    "render_page",
    "weights_path",
    "write_entry",
]
