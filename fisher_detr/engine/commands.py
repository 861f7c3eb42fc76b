"""The commands of tools/train_net.py."""

import argparse
import contextlib
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from fisher_detr.checkpoint import SafeCheckpointer, local_path
from fisher_detr.engine.defaults import save_config, setup
from fisher_detr.engine.distributed import main_process_works
from fisher_detr.engine.qat import is_quantized, load_teacher, quantize_for_training
from fisher_detr.engine.quantization_run import run_post_training
from fisher_detr.engine.trainer import Trainer
from fisher_detr.files import only_writer, remove_leftovers
from fisher_detr.modeling import DetrBase
from fisher_detr.quantization import fix_scales

QUANTIZED_NAME = "model_quantized"


def run_training_command(args: argparse.Namespace) -> dict[str, Any]:
    """Train, resume, evaluate or quantize, as the arguments and the config say.

    Args:
        args: of `detectron2.engine.default_argument_parser`.

    Returns:
        the metrics of the last evaluation.
    """
    cfg = setup(args)
    if not args.eval_only and (cfg.QUANT.QAT.ENABLED or not cfg.QUANT.ENABLED):
        return train(cfg, args.resume)
    if not args.eval_only:
        return evaluate(cfg, quantize(cfg))
    if cfg.QUANT.ENABLED:
        return evaluate(cfg, load_quantized(cfg))
    return evaluate(cfg, load_float(cfg, args.resume))


def train(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Train in OUTPUT_DIR; returns the metrics of the last evaluation.

    Raises:
        ValueError: the folder holds a training already, which is not to be resumed; or another process is at
            work there.
    """
    with sole_writer(cfg):
        return _train(cfg, resume)


def sole_writer(cfg: CfgNode) -> contextlib.AbstractContextManager:
    """No other process, its own ranks aside, works in OUTPUT_DIR inside the block; see `only_writer`."""
    return only_writer(cfg.OUTPUT_DIR) if comm.is_main_process() else contextlib.nullcontext()


def _train(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    if not resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds a training already: go on with --resume, "
            "or name another OUTPUT_DIR"
        )
    if comm.is_main_process():
        remove_leftovers(cfg.OUTPUT_DIR)
    if cfg.QUANT.QAT.ENABLED:
        cfg = quantized_start(cfg, resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    save_config(cfg)
    return trainer.train()


def quantized_start(cfg: CfgNode, resume: bool = False) -> CfgNode:
    """Quantize MODEL.WEIGHTS in `OUTPUT_DIR/start`, unless it is quantized already.

    Returns:
        the config of a training that starts from there, and whose teacher is MODEL.WEIGHTS as it was.

    Raises:
        ValueError: MODEL.WEIGHTS is empty; or distillation has no teacher in full precision of this shape.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint to quantize and train")
    if cfg.QUANT.QAT.DISTILL.ENABLED and cfg.QUANT.QAT.DISTILL.TEACHER and not resume:
        # A wrong teacher is told before minutes of quantization.
        load_teacher(cfg, Trainer.build_float_model(cfg))
    training = cfg.clone()
    training.defrost()
    training.MODEL.BACKBONE.WEIGHTS = ""  # the whole model has its weights
    if not is_quantized(cfg.MODEL.WEIGHTS):
        start = cfg.clone()
        start.defrost()
        start.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "start")
        training.MODEL.WEIGHTS = os.path.join(start.OUTPUT_DIR, f"{QUANTIZED_NAME}.pth")
        training.QUANT.QAT.DISTILL.TEACHER = cfg.QUANT.QAT.DISTILL.TEACHER or cfg.MODEL.WEIGHTS
        if not (resume and os.path.exists(training.MODEL.WEIGHTS)):
            quantize_once(start)
    elif cfg.QUANT.QAT.DISTILL.ENABLED and not cfg.QUANT.QAT.DISTILL.TEACHER:
        raise ValueError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is quantized already: name the checkpoint in full precision "
            "in QUANT.QAT.DISTILL.TEACHER"
        )
    training.freeze()
    return training


def evaluate(cfg: CfgNode, model: DetrBase) -> dict[str, Any]:
    """Evaluate on DATASETS.TEST and hold the results against TEST.EXPECTED_RESULTS.

    Raises:
        ValueError: no data set is named.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name the data sets to evaluate on")
    results = Trainer.test(cfg, model)
    if comm.is_main_process():  # which alone has results
        verify_results(cfg, results)
    return results


def load_float(cfg: CfgNode, resume: bool = False) -> DetrBase:
    """The model in full precision with the weights of MODEL.WEIGHTS or, to resume, of the last checkpoint."""
    model = Trainer.build_float_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR)
    if not (cfg.MODEL.WEIGHTS or (resume and checkpointer.has_checkpoint())):
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint to evaluate or quantize")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model.eval()


def quantize(cfg: CfgNode) -> DetrBase:
    """The model that `quantize_once` makes: on every rank the same."""
    model = quantize_once(cfg)
    if model is not None:
        return model
    made = cfg.clone()
    made.defrost()
    made.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, f"{QUANTIZED_NAME}.pth")
    return load_quantized(made)


def quantize_once(cfg: CfgNode) -> DetrBase | None:
    """Quantize MODEL.WEIGHTS after training; save the quantized model and its config beside its allocation.

    A training in the same OUTPUT_DIR keeps its config and can still be resumed. All ranks must call: they
    share the calibration images.

    Returns:
        the model; None in the other processes.

    Raises:
        ValueError: no data set to calibrate on is named, or another process is at work in OUTPUT_DIR.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to calibrate on")
    with sole_writer(cfg):
        return _quantize(cfg)


def _quantize(cfg: CfgNode) -> DetrBase | None:
    quantized = run_post_training(cfg, load_float(cfg))
    with main_process_works():
        if not comm.is_main_process():
            return None
        checkpointer = SafeCheckpointer(quantized.model, cfg.OUTPUT_DIR)
        checkpointer.save(QUANTIZED_NAME, tag=False, bits=dict(quantized.allocation.bits))
        save_config(cfg, f"{QUANTIZED_NAME}.yaml")
        return quantized.model


def load_quantized(cfg: CfgNode) -> DetrBase:
    """A quantized model from a file that `quantize` or a quantization-aware training wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: MODEL.WEIGHTS is a checkpoint in full precision.
    """
    if not os.path.isfile(local_path(cfg.MODEL.WEIGHTS)):
        raise FileNotFoundError(f"checkpoint {cfg.MODEL.WEIGHTS!r} does not exist: check MODEL.WEIGHTS")
    if not is_quantized(cfg.MODEL.WEIGHTS):
        raise ValueError(
            f"checkpoint {cfg.MODEL.WEIGHTS} is in full precision: leave out --eval-only to quantize it, "
            "or QUANT.ENABLED to evaluate it as it is"
        )
    model = Trainer.build_float_model(cfg)
    quantize_for_training(cfg, model)
    SafeCheckpointer(model, cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHTS)
    fix_scales(model)
    return model.eval()
