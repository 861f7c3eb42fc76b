"""The commands of tools/train_net.py."""

import argparse
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.engine.defaults import save_config, setup
from fisher_detr.engine.post_training import (
    float_model_for_quantization,
    insert_quantizers,
    run_post_training,
)
from fisher_detr.engine.quant_settings import QuantSettings
from fisher_detr.engine.trainer import Trainer
from fisher_detr.files import remove_leftovers
from fisher_detr.modeling import DetrBase
from fisher_detr.structures import BitAllocation

QUANTIZED_NAME = "model_quantized"


def run_training_command(args: argparse.Namespace) -> dict[str, Any]:
    """Train, resume, evaluate or quantize, as the arguments and the config say.

    Args:
        args: of `detectron2.engine.default_argument_parser`.

    Returns:
        the metrics of the last evaluation.
    """
    cfg = setup(args)
    if not (args.eval_only or cfg.QUANT.ENABLED):
        return train(cfg, args.resume)
    if not args.eval_only:
        return evaluate(cfg, quantize(cfg))
    if cfg.QUANT.ENABLED:
        return evaluate(cfg, load_quantized(cfg))
    return evaluate(cfg, load_float(cfg, args.resume))


def train(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Train in OUTPUT_DIR; returns the metrics of the last evaluation.

    Raises:
        ValueError: the folder holds a training already, which is not to be resumed.
    """
    if not resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds a training already: go on with --resume, "
            "or name another OUTPUT_DIR"
        )
    if comm.is_main_process():
        remove_leftovers(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    save_config(cfg)
    return trainer.train()


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
    model = Trainer.build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR)
    if not (cfg.MODEL.WEIGHTS or (resume and checkpointer.has_checkpoint())):
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint to evaluate or quantize")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model.eval()


def quantize(cfg: CfgNode) -> DetrBase:
    """Quantize MODEL.WEIGHTS after training; save the quantized model and its config beside its allocation.

    A training in the same OUTPUT_DIR keeps its config and can still be resumed.

    Raises:
        ValueError: no data set to calibrate on is named.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to calibrate on")
    quantized = run_post_training(cfg, load_float(cfg))
    checkpointer = SafeCheckpointer(quantized.model, cfg.OUTPUT_DIR)
    checkpointer.save(QUANTIZED_NAME, tag=False, bits=dict(quantized.allocation.bits))
    save_config(cfg, f"{QUANTIZED_NAME}.yaml")
    return quantized.model


def load_quantized(cfg: CfgNode) -> DetrBase:
    """A quantized model from a file that `quantize` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: MODEL.WEIGHTS is a checkpoint in full precision.
    """
    if not os.path.isfile(cfg.MODEL.WEIGHTS):
        raise FileNotFoundError(f"checkpoint {cfg.MODEL.WEIGHTS!r} does not exist: check MODEL.WEIGHTS")
    bits = load_tensors(cfg.MODEL.WEIGHTS).get("bits")
    if bits is None:
        raise ValueError(
            f"checkpoint {cfg.MODEL.WEIGHTS} is in full precision: leave out --eval-only to quantize it, "
            "or QUANT.ENABLED to evaluate it as it is"
        )
    settings = QuantSettings.from_config(cfg)
    model = float_model_for_quantization(Trainer.build_model(cfg), settings.fold_norm)
    insert_quantizers(model, BitAllocation(bits, size_bytes=0, budget_bytes=0), settings)
    SafeCheckpointer(model, cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHTS)
    return model
