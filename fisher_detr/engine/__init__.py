"""What drives: set-up, trainer, optimizer, quantization after and in training."""

from fisher_detr.engine.best_checkpoint import BestCheckpointHook
from fisher_detr.engine.category_traces import measure_traces
from fisher_detr.engine.commands import evaluate, load_float, load_quantized, run_training_command, train
from fisher_detr.engine.compare import (
    ArmResult,
    evaluate_arms,
    evaluate_full_precision,
    evaluate_nearest,
    evaluate_plan,
    float_bytes,
)
from fisher_detr.engine.config_merge import setting_differences
from fisher_detr.engine.console import ProgressBar
from fisher_detr.engine.coverage import model_coverage
from fisher_detr.engine.critical_sets import target_set, target_spec
from fisher_detr.engine.defaults import (
    device_type,
    fit_device,
    load_config,
    read_config,
    save_config,
    setup,
    start_logging,
)
from fisher_detr.engine.distributed import Rank
from fisher_detr.engine.ema import ModelEMA
from fisher_detr.engine.environment import environment
from fisher_detr.engine.hooks import QATHook
from fisher_detr.engine.kept_results import KeptResults
from fisher_detr.engine.known_categories import known_categories
from fisher_detr.engine.landscape import LandscapeSettings, measure_landscape
from fisher_detr.engine.micro_batches import MicroBatchTrainer
from fisher_detr.engine.planning import explain_curve, explain_plan
from fisher_detr.engine.portable_config import portable_config
from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.engine.qat import is_quantized, prepare
from fisher_detr.engine.quantization_run import run_post_training
from fisher_detr.engine.scale_phases import QATSchedule
from fisher_detr.engine.trace_penalty import FisherTracePenalty, PenaltySettings
from fisher_detr.engine.trainer import Trainer

__all__ = [
    "KeptResults",
    "ArmResult",
    "BestCheckpointHook",
    "FisherTracePenalty",
    "LandscapeSettings",
    "MicroBatchTrainer",
    "ModelEMA",
    "PenaltySettings",
    "PostTrainingQuantizer",
    "ProgressBar",
    "QATHook",
    "QATSchedule",
    "Rank",
    "Trainer",
    "device_type",
    "environment",
    "evaluate",
    "evaluate_arms",
    "evaluate_full_precision",
    "evaluate_nearest",
    "evaluate_plan",
    "float_bytes",
    "explain_curve",
    "explain_plan",
    "fit_device",
    "is_quantized",
    "known_categories",
    "load_config",
    "load_float",
    "load_quantized",
    "measure_landscape",
    "measure_traces",
    "model_coverage",
    "prepare",
    "read_config",
    "run_post_training",
    "run_training_command",
    "save_config",
    "setting_differences",
    "setup",
    "target_set",
    "target_spec",
    "start_logging",
    "train",
]
