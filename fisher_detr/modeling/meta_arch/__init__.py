"""Registered Detectron2 meta-architectures."""

from fisher_detr.modeling.meta_arch.detr import Detr
from fisher_detr.modeling.meta_arch.detr_base import DetrBase

__all__ = ["Detr", "DetrBase"]
