#!/usr/bin/env python
"""Export a detector to ONNX, compare it with PyTorch on real images, and say what runs in integers.

Full precision:
    tools/export_onnx.py --config-file configs/street/detr_small.yaml --output detr.onnx \
        MODEL.WEIGHTS fisher_detr/model_zoo/weights/street_detr_small.pth

A quantized checkpoint, by the config that it was quantized by:
    tools/export_onnx.py --config-file configs/street/detr_small_ptq.yaml --output detr_int.onnx \
        MODEL.WEIGHTS output/street/detr_small_ptq/model_quantized.pth
"""

import argparse
import sys

from fisher_detr.engine import environment, load_config, start_logging
from fisher_detr.files import write_json


def main() -> None:
    """Parse the command line, export, print the audit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, metavar="FILE", help="the ONNX file")
    parser.add_argument("--opset", type=int, help="operator set; by default the lowest that has the types")
    parser.add_argument("--raw", action="store_true", help="logits and boxes of all queries as outputs")
    parser.add_argument("--padded", action="store_true", help="take batches of images of several sizes")
    parser.add_argument("--weight-only", action="store_true", help="integer weights, products of floats")
    parser.add_argument(
        "--reduce-range",
        action=argparse.BooleanOptionalAction,
        help="8-bit weights in 7 bits; by default where this processor has no VNNI",
    )
    parser.add_argument("--verify-images", type=int, default=50, help="images to compare on; 0: none")
    parser.add_argument("--evaluate", action="store_true", help="the file's metrics on DATASETS.TEST as well")
    parser.add_argument("--audit", metavar="FILE", help="what runs in integers, product by product (JSON)")
    parser.add_argument("--latency", metavar="FILE", help="time of an image (JSON), for tools/report.py")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"export_onnx: {error}")


def run(args: argparse.Namespace) -> None:
    """Export as the arguments say."""
    # Here, since onnx and onnxruntime are extras: without them there is an error in one line.
    from fisher_detr.engine.exporting import (
        ExportRequest,
        evaluate_onnx,
        export_from_config,
        image_latency,
    )

    cfg = load_config(args.config_file, args.opts)
    start_logging(cfg.OUTPUT_DIR)
    request = ExportRequest(
        path=args.output,
        weight_only=args.weight_only,
        opset=args.opset,
        post_processing=not args.raw,
        padded=args.padded,
        reduce_range=args.reduce_range,
        verify_images=args.verify_images,
    )
    result = export_from_config(cfg, request)
    print(result.audit)
    print(result.comparison or "Not compared with PyTorch.")
    print(f"{args.output}: {result.size_bytes:,} bytes, operator set {result.info['opset']}")
    if args.audit:
        write_json(args.audit, result.audit.as_json() | {"environment": environment()})
    if args.latency:
        found = image_latency(cfg, args.output)
        write_json(args.latency, found)
        print(f"{args.latency}: {found['milliseconds']:.2f} ms for an image")
    if args.evaluate:
        evaluate_onnx(cfg, args.output)


if __name__ == "__main__":
    main()
