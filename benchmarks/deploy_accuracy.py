#!/usr/bin/env python
"""AP and APcrit of exported files beside the models that they were made from.

    python -m benchmarks.deploy_accuracy configs/street/detr_small_ptq.yaml \
        configs/street/dab_detr_small_ptq.yaml configs/street/deformable_detr_small_ptq.yaml \
        --output benchmarks/results/deploy_street.json DATASETS.TEST "('street_val',)"

Of every config: float32; all weights in 8 bits; the same in 7 of them, as files are for processors without
VNNI; and the plan of `fisher_critical` for CRITICAL.TARGET at the
bytes of uniform 4 bits, in containers as well. Files have the outputs of all queries, from which critical
sets are evaluated.
"""

import argparse
import json
import sys
from pathlib import Path

from detectron2.config import CfgNode

from benchmarks.bench_deploy import instruction_sets
from benchmarks.command_line import add_configs, configs_and_keys
from benchmarks.turns import ROOT
from fisher_detr.engine import PostTrainingQuantizer, evaluate, float_bytes, load_config, load_float
from fisher_detr.engine.calibration_images import calibration_images
from fisher_detr.export import (
    ExportSettings,
    OnnxDetector,
    Precision,
    export_onnx,
    reduce_weight_range,
)
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.modeling import DetrBase
from fisher_detr.structures import Arm

COMPARED, RANGES = 50, 64  # images to compare file and model on, and for the ranges of a file
PLAN_BITS = 4.0
# Rows of integers: title, arm, bits, whether weights of 8 bits are in 7 (None: as the processor needs it).
INTEGERS = (
    ("W8A8", Arm.UNIFORM, 8.0, None),
    ("W8A8 in 7 bits", Arm.UNIFORM, 8.0, True),
    (f"plan of {PLAN_BITS:g} bits, A8", Arm.FISHER_CRITICAL, PLAN_BITS, None),
)


def main() -> None:
    """Parse the command line, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_configs(parser)
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "deploy", help="of the files")
    parser.add_argument("--output", help="results file (JSON)")
    args, configs, opts = configs_and_keys(parser)
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in configs:
        rows += measure(load_config(path, [*opts, "MODEL.DEVICE", "cpu"]), Path(path).stem, args.folder)
        print(json.dumps(rows[-1 - len(INTEGERS) :], indent=1), file=sys.stderr)
    results = describe(rows)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def measure(cfg: CfgNode, name: str, folder: Path) -> list[list]:
    """Rows of one model."""
    model = load_float(cfg)
    size = float_bytes(model)
    rows = [_row(cfg, name, "float32", model, size, ExportSettings(post_processing=False), folder)]
    cfg = _in_containers(cfg, model)
    quantizer = PostTrainingQuantizer.from_config(cfg, model)
    for title, arm, bits, reduce_range in INTEGERS:
        settings = ExportSettings(Precision.INTEGER, post_processing=False, reduce_range=reduce_range)
        quantized = quantizer.quantize(quantizer.allocate(arm, bits), arm)
        if settings.reduces_range:  # what is evaluated has the weights of the file
            reduce_weight_range(quantized.model)
        of_model = (quantized.model, quantized.coverage.total_bytes, settings, folder)
        rows.append(_row(cfg, name, title, *of_model))
    return rows


def _in_containers(cfg: CfgNode, model: DetrBase) -> CfgNode:
    """The plan is no larger in containers than uniform 4 bits are."""
    uniform = PostTrainingQuantizer.from_config(cfg, model).allocate(Arm.UNIFORM, PLAN_BITS)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.ALLOCATION.MAX_CONTAINER_BYTES = uniform.size_bytes
    return cfg


def _row(
    cfg: CfgNode,
    name: str,
    title: str,
    model: DetrBase,
    size: int,
    settings: ExportSettings,
    folder: Path,
) -> list:
    """Export a model, and evaluate it and the file."""
    path = folder / f"{name}_{title.split(',')[0].replace(' ', '_')}.onnx"
    images = calibration_images(cfg)
    found = export_onnx(model, path, images[:COMPARED], settings, range_images=images[:RANGES])
    before, after = evaluate(cfg, model)["bbox"], evaluate(cfg, OnnxDetector(path))["bbox"]
    critical = [key for key in before if key.startswith("APcrit_")]
    means = [sum(metrics[key] for key in critical) / len(critical) for metrics in (before, after)]
    return [
        *(name, title, before["AP"], after["AP"], after["AP"] - before["AP"], *means),
        *(size / 1e6, found.size_bytes / 1e6, 100 * found.audit.coverage()),
        *(100 * found.comparison.agreement, found.comparison.box, found.comparison.score),
    ]


def describe(rows: list[list]) -> dict:
    """The results file."""
    table = {
        "caption": "Models in PyTorch (fake-quantized) and the files made from them; APcrit is the mean over "
        f"CRITICAL.SETS; detections are those of {COMPARED} calibration images",
        "columns": [
            "model",
            "precision",
            "AP",
            "AP of the file",
            "difference",
            "APcrit",
            "APcrit of the file",
        ]
        + ["weights (MB)", "file (MB)", "integer, % of multiply-accumulates"]
        + ["detections that agree, %", "of them the farthest box (px)", "the farthest score"],
        "rows": rows,
    }
    program = "python -m benchmarks.deploy_accuracy"
    return describe_study(
        program, "Accuracy of exported detectors", [instruction_sets()], [table], peers=["onnxruntime"]
    )


if __name__ == "__main__":
    main()
