"""Checkpoints: safe to read, never half written, checked against the model; official ones converted."""

from fisher_detr.checkpoint.architecture import Architecture, Family, spelled
from fisher_detr.checkpoint.backbone import load_backbone
from fisher_detr.checkpoint.checkpointer import SafeCheckpointer
from fisher_detr.checkpoint.class_rows import COCO_ROWS, PANOPTIC_ROWS, ClassPolicy, ClassRows
from fisher_detr.checkpoint.convert import UnplacedKeysError
from fisher_detr.checkpoint.convert_file import ClassChoice, convert_official_file
from fisher_detr.checkpoint.manifest import ConversionManifest
from fisher_detr.checkpoint.paths import local_path
from fisher_detr.checkpoint.query_rows import GROUPS_KEY
from fisher_detr.checkpoint.restore_file import restore_official_file
from fisher_detr.checkpoint.tensors import load_tensors
from fisher_detr.checkpoint.weights_file import save_weights, weights_name

__all__ = [
    "COCO_ROWS",
    "GROUPS_KEY",
    "PANOPTIC_ROWS",
    "Architecture",
    "ClassChoice",
    "ClassPolicy",
    "ClassRows",
    "ConversionManifest",
    "Family",
    "SafeCheckpointer",
    "UnplacedKeysError",
    "convert_official_file",
    "load_backbone",
    "load_tensors",
    "local_path",
    "restore_official_file",
    "save_weights",
    "spelled",
    "weights_name",
]
