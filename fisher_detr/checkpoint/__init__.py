"""Checkpoints: safe to read, never half written, checked against the model."""

from fisher_detr.checkpoint.checkpointer import SafeCheckpointer, load_tensors

__all__ = ["SafeCheckpointer", "load_tensors"]
