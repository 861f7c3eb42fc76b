#!/usr/bin/env python
"""Measure the Fisher trace of every category and critical set of a detector in full precision.

tools/measure_traces.py --config-file configs/street/detr_small_ptq.yaml --output output/run/traces.json

In the folder of a run, tools/report.py shows it beside the AP that quantization costs each category.
"""

import argparse
import sys

from fisher_detr.engine import load_config, measure_traces, start_logging
from fisher_detr.files import write_json


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, metavar="FILE", help="the traces (JSON)")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    try:
        cfg = load_config(args.config_file, args.opts)
        start_logging(cfg.OUTPUT_DIR)
        found = measure_traces(cfg)
        write_json(args.output, found)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"measure_traces: {error}")
    for objective in sorted(found["objectives"], key=lambda x: -x["trace"]):
        print(f"{objective['kind']:8}  {objective['name']:24}  {objective['trace']:12.4g}")


if __name__ == "__main__":
    main()
