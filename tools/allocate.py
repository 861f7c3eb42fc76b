#!/usr/bin/env python
"""Choose the widths of a model's layers and say why, without evaluating it.

tools/allocate.py --config-file configs/street/detr_small_ptq.yaml ALLOCATION.AVERAGE_BITS 3
tools/allocate.py --config-file ... ALLOCATION.SENSITIVITY_FILE output/sensitivity.json
tools/allocate.py --config-file ... --pareto output/curve.json

Without ALLOCATION.SENSITIVITY_FILE the sensitivities are computed, and kept in OUTPUT_DIR.
"""

import argparse
import dataclasses
import os

from detectron2.utils.logger import setup_logger

from fisher_detr.allocation import format_plan
from fisher_detr.engine import PostTrainingQuantizer, load_config, load_float
from fisher_detr.files import write_json
from fisher_detr.structures import Arm, BitAllocation, SensitivityTable


def main() -> None:
    """Parse the command line; print the plan, or the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--pareto", metavar="FILE", help="predicted cost against bytes, as JSON")
    parser.add_argument("--points", type=int, default=25, help="sizes of the curve")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    setup_logger(name="fisher_detr")
    cfg = load_config(args.config_file, args.opts)
    quantizer, arm = PostTrainingQuantizer.from_config(cfg, load_float(cfg)), Arm(cfg.ALLOCATION.ARM)
    if cfg.ALLOCATION.SENSITIVITY_FILE:
        quantizer.take_sensitivity(arm, SensitivityTable.load(cfg.ALLOCATION.SENSITIVITY_FILE))
    elif arm is not Arm.UNIFORM:
        quantizer.sensitivity(arm).save(os.path.join(cfg.OUTPUT_DIR, "sensitivity.json"))
    if args.pareto:
        plans = quantizer.pareto(arm, args.points)
        write_json(args.pareto, [dataclasses.asdict(plan) for plan in plans])
        print(format_curve(plans))
    else:
        print(format_plan(quantizer.allocate(arm, cfg.ALLOCATION.AVERAGE_BITS)))


def format_curve(plans: list[BitAllocation]) -> str:
    """Sizes and predicted costs, one line for each plan."""
    rows = [
        f"{plan.size_bytes:>12,}  {min(plan.bits.values())} to {max(plan.bits.values())}  {plan.cost:.4g}"
        for plan in plans
    ]
    return "\n".join([f"{'bytes':>12}  bits    cost", *rows])


if __name__ == "__main__":
    main()
