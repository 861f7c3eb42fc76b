#!/usr/bin/env python
"""Do predicted sensitivities rank the layers as measured ones do? FISHER.VALIDATE of models, in a table.

    python -m benchmarks.prediction configs/street/detr_small_ptq.yaml \
        configs/street/dab_detr_small_ptq.yaml configs/street/deformable_detr_small_ptq.yaml \
        --output benchmarks/results/street_prediction.json FISHER.VALIDATE_IMAGES 512

Each model's `validation.json` is in a folder of its own under --folder. One that is there is taken, if its
settings were the same; a measurement that was cut off goes on.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from benchmarks.command_line import add_configs, configs_and_keys
from benchmarks.turns import ROOT
from fisher_detr.engine import PostTrainingQuantizer, load_config, load_float
from fisher_detr.engine.calibration_images import held_out_images
from fisher_detr.engine.prediction_check import check_prediction
from fisher_detr.files import read_json, write_json, write_text
from fisher_detr.model_zoo import describe_study
from fisher_detr.structures import Arm

COLUMNS = ["model", "objective", "bits", "Spearman", "95 %", "ceiling", "part of it", "holds"]
COLUMNS += ["furthest from their place: within noise"]


def main() -> None:
    """Parse the command line, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_configs(parser)
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "prediction", help="of the runs")
    parser.add_argument("--output", help="results file (JSON)")
    args, configs, opts = configs_and_keys(parser)
    setup_logger(name="fisher_detr")
    rows, texts = [], []
    for path in configs:
        folder = args.folder / Path(path).stem
        cfg = load_config(path, [*opts, "FISHER.VALIDATE", "True", "OUTPUT_DIR", str(folder)])
        found = validation(cfg, folder)
        rows += rows_of(Path(path).stem, found)
        texts.append(text_of(cfg, found))
        print(json.dumps(rows[-len(found["agreements"]) :], indent=1), file=sys.stderr)
    results = describe(rows, list(dict.fromkeys(texts)))
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def validation(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    """Content of `validation.json`: of before, or measured now."""
    path, noted, settings = folder / "validation.json", folder / "config.yaml", cfg.dump()
    if path.exists() and noted.exists() and noted.read_text(encoding="utf-8") == settings:
        return read_json(path, "validation")
    os.makedirs(folder, exist_ok=True)
    images = held_out_images(cfg)
    quantizer = PostTrainingQuantizer.from_config(cfg, load_float(cfg))
    check_prediction(cfg, quantizer, Arm(cfg.ALLOCATION.ARM), images)
    write_text(noted, settings)
    return read_json(path, "validation")


def rows_of(name: str, found: dict[str, Any]) -> list[list]:
    """One row for each objective and width."""
    return [
        [
            name,
            x["objective"],
            x["bits"],
            x["correlation"],
            "{:.2f} to {:.2f}".format(*x["interval"]) if x["interval"][0] is not None else "",
            x["ceiling"],
            x["part_of_ceiling"],
            "yes" if x["holds"] else "no",
            of_misranked(x["misranked"]),
        ]
        for x in found["agreements"]
    ]


def of_misranked(layers: list[dict]) -> str:
    """How many of the layers that are listed could be anywhere near their place, by the measurement."""
    return f"{sum(x['within_noise'] or x['place_within_noise'] for x in layers)} of {len(layers)}"


def text_of(cfg: CfgNode, found: dict[str, Any]) -> str:
    """What was predicted and measured."""
    sensitivity, weight = cfg.ALLOCATION.SENSITIVITY, cfg.QUANT.WEIGHT
    return (
        f"Sensitivity {sensitivity}, scales by {weight.SCALE}, rounding {weight.ROUNDING}, critical set "
        f"{cfg.CRITICAL.TARGET}; {cfg.QUANT.CALIBRATION.NUM_IMAGES} calibration images, measured on "
        f"{found['num_images']} others of {', '.join(cfg.DATASETS.TRAIN)}."
    )


def describe(rows: list[list], texts: list[str]) -> dict:
    """The results file."""
    table = {
        "caption": "Rank correlation over layers of the predicted and the measured change of the losses when "
        "one layer is quantized, beside the best that so noisy a measurement allows (0.9 of it is aimed "
        "for); of the at most five layers furthest from their place those whose change, or place, is within "
        "its noise",
        "columns": COLUMNS,
        "rows": rows,
    }
    title = "Predicted sensitivities beside measured ones"
    return describe_study("python -m benchmarks.prediction", title, texts, [table])


if __name__ == "__main__":
    main()
