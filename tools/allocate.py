#!/usr/bin/env python
"""Choose the widths of a model's layers and say why, without evaluating it.

tools/allocate.py --config-file configs/street/detr_small_ptq.yaml ALLOCATION.AVERAGE_BITS 3
tools/allocate.py --config-file ... ALLOCATION.SENSITIVITY_FILE output/sensitivity.json
tools/allocate.py --config-file ... --pareto output/pareto.json --measure 5

Without ALLOCATION.SENSITIVITY_FILE the sensitivities are computed, and kept in OUTPUT_DIR.
"""

import argparse
import sys

from fisher_detr.engine import explain_curve, explain_plan, load_config, start_logging


def main() -> None:
    """Parse the command line; print the plan, or the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--pareto", metavar="FILE", help="predicted cost against bytes; its plans, as JSON")
    parser.add_argument("--points", type=int, default=25, help="sizes of the curve")
    parser.add_argument("--measure", type=int, default=0, help="plans of the curve to quantize and measure")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    try:
        cfg = load_config(args.config_file, args.opts)
        start_logging(cfg.OUTPUT_DIR)
        if args.pareto:
            print(explain_curve(cfg, args.points, args.pareto, args.measure))
        else:
            print(explain_plan(cfg))
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"allocate: {error}")


if __name__ == "__main__":
    main()
