"""Checkpoints: safe to read, never half written, checked against the model."""

from fisher_detr.checkpoint.checkpointer import SafeCheckpointer

__all__ = ["SafeCheckpointer"]
