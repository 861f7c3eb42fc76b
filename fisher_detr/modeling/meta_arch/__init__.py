"""Registered Detectron2 meta-architectures."""

from fisher_detr.modeling.meta_arch.dab_detr import DabDetr
from fisher_detr.modeling.meta_arch.deformable_detr import DeformableDetr
from fisher_detr.modeling.meta_arch.detr import Detr
from fisher_detr.modeling.meta_arch.detr_base import DetrBase

__all__ = ["DabDetr", "DeformableDetr", "Detr", "DetrBase"]
