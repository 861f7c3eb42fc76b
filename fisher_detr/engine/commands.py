"""The commands of tools/train_net.py."""

import argparse

from detectron2.engine import DefaultTrainer
from detectron2.evaluation import verify_results

from fisher_detr.checkpoint import SafeCheckpointer
from fisher_detr.engine.defaults import setup
from fisher_detr.engine.trainer import Trainer


def run_training_command(args: argparse.Namespace) -> dict:
    """Train, resume or evaluate, as the arguments say.

    Args:
        args: of `detectron2.engine.default_argument_parser`.

    Returns:
        the metrics of the last evaluation.
    """
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        verify_results(cfg, results)
        return results
    trainer: DefaultTrainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()
