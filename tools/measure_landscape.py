#!/usr/bin/env python
"""Measure the loss around the weights of models: along random directions and in a plane of them.

tools/measure_landscape.py --config-file configs/street/detr_small_ptq.yaml --output landscape.json
        --model full_precision=zoo://street_detr_small --model qat=output/run/uniform_qat

A model is a checkpoint, read by the config file, or the folder of a finished run, which has its own config.
In the folder of a run, tools/report.py shows the file.
"""

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode

from fisher_detr.engine import LandscapeSettings, load_config, measure_landscape, start_logging
from fisher_detr.files import write_json
from fisher_detr.model_zoo import read_run

DEFAULT = LandscapeSettings()


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--model", action="append", metavar="NAME=PATH", required=True, help="one or several")
    parser.add_argument("--output", required=True, metavar="FILE", help="the landscape (JSON)")
    parser.add_argument("--images", type=int, default=DEFAULT.num_images, help="of DATASETS.TEST")
    parser.add_argument("--radius", type=float, default=DEFAULT.radius, help="in parts of a channel's norm")
    parser.add_argument("--points", type=int, default=DEFAULT.points, help="steps to each side of a line")
    parser.add_argument("--directions", type=int, default=DEFAULT.directions, help="lines")
    parser.add_argument("--plane-points", type=int, default=DEFAULT.plane_points, help="0: no plane")
    parser.add_argument("--seed", type=int, default=DEFAULT.seed, help="of images and directions")
    parser.add_argument("opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args()
    try:
        models = {name: configure(args, path) for name, path in map(named, args.model)}
        start_logging(next(iter(models.values())).OUTPUT_DIR)
        settings = LandscapeSettings(
            args.images, args.radius, args.points, args.directions, args.plane_points, args.seed
        )
        found = measure_landscape(models, settings)
        write_json(args.output, found)
    except (ValueError, KeyError, OSError) as error:
        sys.exit(f"measure_landscape: {error}")
    for model in found["models"]:
        for objective, sharpness in model["sharpness"].items():
            print(
                f"{model['name']:24}  {objective:10}  rises by {sharpness['rise'][-1]:.3g} at {args.radius:g}"
            )


def named(model: str) -> tuple[str, str]:
    """Name and path."""
    name, equals, path = model.partition("=")
    if not (name and equals and path):
        raise ValueError(f"model {model!r}: expected NAME=PATH")
    return name, path


def configure(args: argparse.Namespace, path: str) -> CfgNode:
    """The config of one model: that of its run, else that of the command line."""
    config, weights = args.config_file, path
    if Path(path).is_dir():
        run = read_run(path)
        config, weights = str(run.config), str(run.weights)
    return load_config(config, [*args.opts, "MODEL.WEIGHTS", weights])


if __name__ == "__main__":
    main()
