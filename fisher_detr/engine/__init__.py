"""What drives: set-up, trainer, optimizer, post-training quantization."""

from fisher_detr.engine.commands import run_training_command
from fisher_detr.engine.defaults import load_config, setup
from fisher_detr.engine.trainer import Trainer

__all__ = ["Trainer", "load_config", "run_training_command", "setup"]
