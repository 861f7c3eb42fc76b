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
from fisher_detr.model_zoo.page import markdown_table, render_page, render_study
from fisher_detr.model_zoo.paper import BITS as PAPER_BITS
from fisher_detr.model_zoo.paper import MODELS as PAPER_MODELS
from fisher_detr.model_zoo.paper import NOT_MEASURED, PaperModel, PaperTable
from fisher_detr.model_zoo.paper import TABLES as PAPER_TABLES
from fisher_detr.model_zoo.publish import Publication, publish
from fisher_detr.model_zoo.reproduction import PaperRow, Reproduction, reproduce
from fisher_detr.model_zoo.run_folder import RunFolder, read_run
from fisher_detr.model_zoo.study import Study, describe_study, read_studies
from fisher_detr.model_zoo.zoo_entry import Kind, Measured, Metric, Quantization, Training, ZooEntry

__all__ = [
    "NOT_MEASURED",
    "PAPER_BITS",
    "PAPER_MODELS",
    "PAPER_TABLES",
    "Kind",
    "Measured",
    "Metric",
    "PaperModel",
    "PaperRow",
    "PaperTable",
    "Publication",
    "Quantization",
    "Reproduction",
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
    "markdown_table",
    "publish",
    "read_run",
    "read_studies",
    "reproduce",
    "render_page",
    "render_study",
    "weights_path",
    "write_entry",
]
