"""Widths of a model's layers from a config, in words: without quantizing or evaluating it."""

import dataclasses
import os

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from fisher_detr.allocation import format_plan
from fisher_detr.engine.calibration_images import held_out_images
from fisher_detr.engine.commands import load_float, sole_writer
from fisher_detr.engine.evaluation_record import provenance
from fisher_detr.engine.plan_losses import PlanLosses
from fisher_detr.engine.post_training import PostTrainingQuantizer
from fisher_detr.engine.quantization_run import take_or_estimate
from fisher_detr.files import write_json
from fisher_detr.structures import Arm, BitAllocation


def explain_plan(cfg: CfgNode) -> str:
    """The plan that the config asks for, with a reason for every layer.

    It is left in `allocation.json` in OUTPUT_DIR, computed sensitivities in `sensitivity.json`.
    """
    with sole_writer(cfg):
        quantizer, arm = _prepare(cfg)
        plan = quantizer.allocate(arm, cfg.ALLOCATION.AVERAGE_BITS)
        if comm.is_main_process():
            plan.save(os.path.join(cfg.OUTPUT_DIR, "allocation.json"))
        quantizer.estimator_of(arm).discard_partial()
    return format_plan(plan)


def explain_curve(cfg: CfgNode, points: int, path: str | os.PathLike, measured: int = 0) -> str:
    """Predicted cost against bytes.

    Args:
        cfg: the config; ALLOCATION.AVERAGE_BITS has no effect.
        points: number of sizes.
        path: file that gets the plans, and how they came about, JSON.
        measured: how many of the plans are quantized by, to see what they do to the losses of
            FISHER.VALIDATE_IMAGES other images (`PlanLosses`).

    Raises:
        ValueError: the arm is uniform, which predicts nothing.
    """
    if Arm(cfg.ALLOCATION.ARM) is Arm.UNIFORM:
        raise ValueError("ALLOCATION.ARM uniform predicts no cost: take fisher_overall or fisher_critical")
    images = held_out_images(cfg) if measured else []
    with sole_writer(cfg):
        quantizer, arm = _prepare(cfg)
        plans = quantizer.pareto(arm, points)
        chosen = np.linspace(0, len(plans) - 1, min(measured, len(plans))).round().astype(int).tolist()
        if chosen:
            losses = PlanLosses(quantizer, arm, images)
            plans = [losses.measured(plan) if i in chosen else plan for i, plan in enumerate(plans)]
    if comm.is_main_process():
        write_json(path, {"plans": list(map(dataclasses.asdict, plans)), "provenance": provenance(cfg)})
    return "\n".join([f"{'bytes':>12}  bits    cost", *map(_line, plans)])


def _prepare(cfg: CfgNode) -> tuple[PostTrainingQuantizer, Arm]:
    quantizer, arm = PostTrainingQuantizer.from_config(cfg, load_float(cfg)), Arm(cfg.ALLOCATION.ARM)
    if arm is not Arm.UNIFORM:
        take_or_estimate(cfg, quantizer, arm)
    return quantizer, arm


def _line(plan: BitAllocation) -> str:
    widths = plan.bits.values()
    return f"{plan.size_bytes:>12,}  {min(widths)} to {max(widths)}  {plan.cost:.4g}"
