#!/usr/bin/env python
"""Which options of post-training quantization are best? One at a time is another than the default.

    python -m benchmarks.options_grid configs/street/detr_small_ptq.yaml \
        configs/street/dab_detr_small_ptq.yaml configs/street/deformable_detr_small_ptq.yaml \
        --output benchmarks/results/street_options.json DATASETS.TEST "('street_val',)"

The plan of `fisher_critical` for CRITICAL.TARGET at every width. Gains over the default come with bootstrap
intervals over images (paired, 95 %). Results are kept below --folder: a grid that was cut off goes on. With
--held-out evaluation is on images of DATASETS.TRAIN that are not calibrated on.
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from pycocotools.coco import COCO

from benchmarks.arms_grid import detections_of
from benchmarks.command_line import add_configs, configs_and_keys
from benchmarks.subsets import subset_entry
from benchmarks.turns import ROOT
from fisher_detr.data import sample_calibration_images
from fisher_detr.engine import (
    ArmResult,
    KeptResults,
    PostTrainingQuantizer,
    evaluate_arms,
    load_config,
    load_float,
)
from fisher_detr.engine.critical_sets import target_set
from fisher_detr.evaluation import bootstrap_ap, complete_ground_truth
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.structures import Arm

DEFAULT = "default"
OPTIONS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "sensitivity diagonal": ("ALLOCATION.SENSITIVITY", "diagonal"),
    "sensitivity hawq_trace": ("ALLOCATION.SENSITIVITY", "hawq_trace"),
    "sensitivity measured": ("ALLOCATION.SENSITIVITY", "measured"),
    "combine square_of_sum": ("ALLOCATION.COMBINE", "square_of_sum"),
    "losses of all decoder layers": ("ALLOCATION.AUX_LOSS", "True"),
    "box losses of all objects": ("CRITICAL.BOX_LOSS", "all"),
    "labels of the model": ("FISHER.LABELS", "model"),
    "scale mse": ("QUANT.WEIGHT.SCALE", "mse"),
    "scale max": ("QUANT.WEIGHT.SCALE", "max"),
    "rounding without biases": ("QUANT.WEIGHT.ROUNDING", "fisher_weights"),
    "rounding nearest": ("QUANT.WEIGHT.ROUNDING", "nearest"),
    "bias correction own": ("QUANT.BIAS_CORRECTION", "own"),
    "bias correction sequential": ("QUANT.BIAS_CORRECTION", "sequential"),
}
# Results by width.
Results = dict[float, ArmResult]


def main() -> None:
    """Parse the command line, measure what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_configs(parser)
    parser.add_argument("--widths", type=float, nargs="+", default=[3.0, 4.0])
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument(
        "--held-out", type=int, default=0, help="training images to evaluate on; 0: DATASETS.TEST"
    )
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "options", help="of the runs")
    parser.add_argument("--output", help="results file (JSON)")
    args, configs, opts = configs_and_keys(parser)
    setup_logger(name="fisher_detr")
    tables, data_sets = [], []
    for path in configs:
        folder = args.folder / Path(path).stem
        keys = [*opts, *held_out(load_config(path, opts), args.held_out, folder)]
        base = load_config(path, keys)
        found = {
            name: measure(path, [*keys, *OPTIONS[name]], args.widths, folder / name) for name in args.options
        }
        tables.append(table_of(base, Path(path).stem, found, args.resamples))
        data_sets.append(", ".join(base.DATASETS.TEST))
        print(json.dumps(tables[-1], indent=1), file=sys.stderr)
    results = describe(tables, data_sets)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def held_out(cfg: CfgNode, count: int, folder: Path) -> list[str]:
    """Config keys that evaluate on training images which are not calibrated on; 0: on DATASETS.TEST."""
    if not count:
        return []
    (whole,) = cfg.DATASETS.TRAIN
    calibration = cfg.QUANT.CALIBRATION
    drawn = sample_calibration_images(
        DatasetCatalog.get(whole), calibration.NUM_IMAGES + count, calibration.SEED
    )
    ids = {record["image_id"] for record in drawn[calibration.NUM_IMAGES :]}
    name = f"{whole}_held_out_{count}"
    register = [*cfg.DATASETS.REGISTER, subset_entry(whole, name, ids, folder / f"{name}.json")]
    return ["DATASETS.REGISTER", repr(register), "DATASETS.TEST", f"('{name}',)"]


def measure(path: str, keys: Sequence[str], widths: Sequence[float], folder: Path) -> Results:
    """Quantize and evaluate with some keys at every width, unless it is known."""
    cfg = load_config(path, [*keys, "OUTPUT_DIR", str(folder)])
    kept = KeptResults(cfg)

    @functools.cache  # its estimates serve all widths
    def quantizer() -> PostTrainingQuantizer:
        return PostTrainingQuantizer.from_config(cfg, load_float(cfg))

    def result(width: float) -> ArmResult:
        return evaluate_arms(cfg, quantizer(), [Arm.FISHER_CRITICAL], width)[0]

    return {width: kept.get(f"{width:g}", functools.partial(result, width)) for width in widths}


def table_of(cfg: CfgNode, name: str, found: dict[str, Results], resamples: int) -> dict:
    """Of a model: AP and APcrit of every option and width, and the gain over the default."""
    metadata, chosen = MetadataCatalog.get(cfg.DATASETS.TEST[0]), target_set(cfg)
    by_index = {index: id_ for id_, index in metadata.thing_dataset_id_to_contiguous_id.items()}
    ids = [by_index[index] for index in chosen.indices]
    truth, widths = complete_ground_truth(COCO(metadata.json_file)), list(next(iter(found.values())))
    rows = {option: [option] for option in found}
    for width in widths:
        estimates = bootstrap_ap(
            truth, {o: detections_of(of[width], chosen) for o, of in found.items()}, ids, resamples
        )
        for option, row in rows.items():
            metrics = found[option][width].metrics
            row += [metrics["AP"], metrics[f"APcrit_{chosen.name}"], ""]
            if option != DEFAULT and DEFAULT in found:
                gain = estimates[option] - estimates[DEFAULT]
                row[-1] = "{:+.2f} [{:+.2f}, {:+.2f}]".format(gain.point, *gain.interval())
    columns = [f"{what}, {width:g} bits" for width in widths for what in ("AP", "APcrit", "gain")]
    caption = (
        f"{name}: fisher_critical for {chosen.name} on {', '.join(cfg.DATASETS.TEST)}; gains are of APcrit"
    )
    return {"caption": caption, "columns": ["option", *columns], "rows": list(rows.values())}


def describe(tables: Sequence[dict], data_sets: Sequence[str]) -> dict:
    """The results file."""
    defaults = " ".join(key for keys in OPTIONS.values() for key in keys[::2])
    text = (
        "Each row is another than the default in the one key that it names, of "
        f"{', '.join(dict.fromkeys(defaults.split()))}; bytes are those of the uniform width."
    )
    title = f"Options of post-training quantization, {', '.join(dict.fromkeys(data_sets))}"
    return describe_study("python -m benchmarks.options_grid", title, [text], tables)


if __name__ == "__main__":
    main()
