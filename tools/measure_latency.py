#!/usr/bin/env python
"""Measure how long onnxruntime takes for every layer at every width: a table for the allocator.

tools/measure_latency.py --config-file configs/street/detr_small_ptq.yaml --output latency.json
tools/allocate.py --config-file configs/street/detr_small_ptq.yaml \
        ALLOCATION.LATENCY_TABLE latency.json ALLOCATION.MAX_LATENCY 3.0
"""

import argparse
import sys

from fisher_detr.engine import load_config, start_logging
from fisher_detr.files import write_json


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, metavar="FILE", help="the table (JSON)")
    parser.add_argument("--runs", type=int, default=20, help="of each file")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"measure_latency: {error}")


def run(args: argparse.Namespace) -> None:
    """Measure as the arguments say."""
    # Here, since onnx and onnxruntime are extras: without them there is an error in one line.
    from fisher_detr.engine.latency import measure_latencies

    cfg = load_config(args.config_file, args.opts)
    start_logging(cfg.OUTPUT_DIR)
    table = measure_latencies(cfg, args.runs)
    write_json(args.output, table)
    sums = {bits: sum(times[bits] for times in table.values()) for bits in next(iter(table.values()))}
    told = ", ".join(f"{total:.2f} ms at {bits} bits" for bits, total in sums.items())
    print(f"{args.output}: {len(table)} layers take together {told}")


if __name__ == "__main__":
    main()
