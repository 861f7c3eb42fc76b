"""What drives: set-up, trainer, optimizer, post-training quantization."""

from fisher_detr.engine.commands import load_float, run_training_command
from fisher_detr.engine.compare import ArmResult, evaluate_arms, evaluate_full_precision
from fisher_detr.engine.defaults import load_config, setup
from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.engine.trainer import Trainer

__all__ = [
    "ArmResult",
    "PostTrainingQuantizer",
    "Trainer",
    "evaluate_arms",
    "evaluate_full_precision",
    "load_config",
    "load_float",
    "run_training_command",
    "setup",
]
