#!/usr/bin/env python
"""Make one HTML page of what quantization did, from the files that runs have left behind.

tools/report.py output/quickstart/detr --output report.html
tools/report.py full=output/full uniform=output/uniform qat=output/qat --output report.html --figures figures/

A run is a folder in which evaluations are found: OUTPUT_DIR of tools/train_net.py, or output_dir of a
CriticalCategoryEvaluator. Nothing is computed again; a part whose files are missing says what makes them.
"""

import argparse
import sys


def main() -> None:
    """Parse the command line, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FOLDER", help="of runs to compare")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page (HTML)")
    parser.add_argument("--figures", metavar="FOLDER", help="also the charts as PNG and SVG")
    parser.add_argument("--title", default="", help="heading of the page")
    parser.add_argument("--target", default="", help="critical set of the pictures")
    parser.add_argument("--samples", type=int, default=4, help="images with detections; 0: none")
    parser.add_argument("--images", metavar="FOLDER", help="of the images, where they have moved")
    parser.add_argument("--annotations", metavar="FILE", help="of the images, where it has moved")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"report: {error}")


def run(args: argparse.Namespace) -> None:
    """Write the page, and say what it lacks."""
    # Here, since plotly and Jinja2 are an extra, [report]: without them there is an error in one line.
    from fisher_detr.report import ReportRequest, build_report, draw_figures, read_runs

    request = ReportRequest(args.runs, args.title, args.target, args.samples, args.images, args.annotations)
    gaps = build_report(request, args.output)
    figures = draw_figures(read_runs(args.runs), args.figures) if args.figures else []
    for gap in gaps:
        print(f"not in the report: {gap}")
    print(args.output if not figures else f"{args.output}, and {len(figures)} files in {args.figures}")


if __name__ == "__main__":
    main()
