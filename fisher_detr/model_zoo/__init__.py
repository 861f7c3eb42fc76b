"""Published models: what they are, what they reach, how to make that again, and their weights."""

from fisher_detr.model_zoo.access import get, get_config
from fisher_detr.model_zoo.access import names as list
from fisher_detr.model_zoo.catalog import (
    config_path,
    entries,
    entry,
    hashed_name,
    weights_path,
    write_entry,
)
from fisher_detr.model_zoo.page import render_page
from fisher_detr.model_zoo.publish import Publication, publish
from fisher_detr.model_zoo.run_folder import RunFolder, read_run
from fisher_detr.model_zoo.study import Study, describe_study, read_studies
from fisher_detr.model_zoo.zoo_entry import Kind, Measured, Metric, Quantization, Training, ZooEntry

__all__ = [
    "Kind",
    "Measured",
    "Metric",
    "Publication",
    "Quantization",
    "RunFolder",
    "Study",
    "Training",
    "ZooEntry",
    "config_path",
    "describe_study",
    "entries",
    "entry",
    "get",
    "get_config",
    "hashed_name",
    "list",
    "publish",
    "read_run",
    "read_studies",
    "render_page",
    "weights_path",
    "write_entry",
]
