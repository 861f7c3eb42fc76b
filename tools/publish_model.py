#!/usr/bin/env python
"""Measure a model by its config and enter it into the model zoo; `make zoo` then writes the page.

A trained model, with its weights:
    tools/publish_model.py --name street_detr_small --model "DETR, small ResNet" --train-seconds 4800 \
        --config-file configs/street/detr_small.yaml \
        MODEL.WEIGHTS output/street/detr_small/model_final.pth DATASETS.TEST "('street_test',)"

A model that is quantized after training, whose row is its command:
    tools/publish_model.py --name street_detr_small_uniform_4bit --model "DETR, small ResNet" \
        --config-file configs/street/detr_small_ptq.yaml \
        ALLOCATION.ARM uniform DATASETS.TEST "('street_test',)"

A quantized model that was trained on, with its weights: as a trained one, by the config of its training.
"""

import argparse
import datetime
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from torch import nn

from fisher_detr.checkpoint import save_weights, weights_name
from fisher_detr.engine import (
    environment,
    evaluate,
    float_bytes,
    load_config,
    load_float,
    load_quantized,
    quantized_coverage,
    run_post_training,
)
from fisher_detr.model_zoo import Measured, Metric, Quantization, Training, ZooEntry, write_entry
from fisher_detr.structures import Arm

# What is published of a rerun: two processors may order float sums in two ways.
TOLERANCE = 0.3
WIDTH_TOLERANCE = (
    0.25  # an allocation meets its budget of bytes, scales included, and not the average exactly
)
OVERALL = ("AP", "AP50", "AP75")
SHIPPED = "fisher_detr/model_zoo/weights"


def main() -> None:
    """Parse the command line, measure, write the entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--name", required=True, help="of the entry: lower-case letters, digits and '_'")
    parser.add_argument(
        "--model", required=True, help="title; quantized models share it with their float one"
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--train-seconds", type=float, help="a trained model: the time its training took")
    parser.add_argument("--train-command", help="how it was trained, where the config alone does not say it")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args()
    setup_logger(name="fisher_detr")
    try:
        path = publish(args)
    except (ValueError, OSError) as error:
        sys.exit(f"publish_model: {error}")
    print(f"{path} is written: look at it, then run `make zoo`")


def publish(args: argparse.Namespace) -> Path:
    """Measure and enter the model; returns the entry's file.

    Raises:
        ValueError: the arguments contradict the config.
    """
    cfg = load_config(args.config_file, args.opts)
    if "DATASETS.TEST" not in args.opts:
        raise ValueError("name the split that the row is measured on: DATASETS.TEST \"('..._test',)\"")
    is_trained = cfg.QUANT.QAT.ENABLED or not cfg.QUANT.ENABLED
    if bool(args.train_seconds) != is_trained:
        raise ValueError("give --train-seconds for a trained model, and only for that")
    return publish_trained(cfg, args) if is_trained else publish_quantized(cfg, args)


def publish_trained(cfg: CfgNode, args: argparse.Namespace) -> Path:
    """Evaluate a trained model; ship its weights without optimizer and schedule, packed where quantized."""
    model = load_quantized(cfg) if cfg.QUANT.ENABLED else load_float(cfg)
    shipped = {"MODEL.WEIGHTS": f"{SHIPPED}/{weights_name(args.name, model)}"}
    command = _command(args, ["--eval-only"], shipped)
    size = _quantized_bytes(cfg, model) if cfg.QUANT.ENABLED else float_bytes(model)
    entry = _entry(cfg, args, model, command, size)
    by_config = f"python tools/train_net.py --config-file {args.config_file}"
    training = Training(args.train_command or by_config, args.train_seconds)
    quantization = _quantization(cfg) if cfg.QUANT.ENABLED else None
    info = {
        "config": cfg.dump(),
        "categories": list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes),
        "metrics": {name: metric.value for name, metric in entry["metrics"].items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = save_weights(folder, args.name, model, info)
        return write_entry(ZooEntry(**entry, training=training, quantization=quantization), file)


def publish_quantized(cfg: CfgNode, args: argparse.Namespace) -> Path:
    """Quantize and evaluate; the command makes the model again."""
    start = time.perf_counter()
    quantized = run_post_training(cfg, load_float(cfg))
    size = quantized.coverage.total_bytes
    entry = _entry(cfg, args, quantized.model, _command(args, [], {}), size, start)
    return write_entry(ZooEntry(**entry, quantization=_quantization(cfg)))


def _quantized_bytes(cfg: CfgNode, model: nn.Module) -> int:
    """Of the whole model, whose widths are what the config says.

    Raises:
        ValueError: they are not.
    """
    report = quantized_coverage(cfg, model)
    expected = cfg.ALLOCATION.AVERAGE_BITS
    if abs(report.average_bits - expected) > WIDTH_TOLERANCE:
        raise ValueError(
            f"the weights in {cfg.MODEL.WEIGHTS} are {report.average_bits:.2f} bits wide on average, "
            f"ALLOCATION.AVERAGE_BITS is {expected:g}: name the width they have"
        )
    return report.total_bytes


def _quantization(cfg: CfgNode) -> Quantization:
    arm = Arm(cfg.ALLOCATION.ARM)
    return Quantization(
        arm=arm,
        average_bits=cfg.ALLOCATION.AVERAGE_BITS,
        activation_bits=cfg.QUANT.ACTIVATION.BITS,
        critical_set=cfg.CRITICAL.TARGET if arm is Arm.FISHER_CRITICAL else None,
    )


def _entry(cfg: CfgNode, args: argparse.Namespace, model, command: str, size: int, start=None) -> dict:
    start = time.perf_counter() if start is None else start
    results = evaluate(cfg, model)["bbox"]
    data_set, _, split = cfg.DATASETS.TEST[0].rpartition("_")
    where = environment()
    return {
        "name": args.name,
        "model": args.model,
        "data_set": data_set,
        "split": split,
        "metrics": {
            name: Metric(round(float(value), 2), TOLERANCE)
            for name, value in results.items()
            if np.isfinite(value) and (name in OVERALL or name.startswith(("APcrit_", "AP_")))
        },
        "config": args.config_file,
        "command": command,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "size_bytes": size,
        "measured": Measured(
            torch=where["torch"],
            device=where["device"],
            date=datetime.datetime.now(datetime.UTC).date(),
            seconds=round(time.perf_counter() - start, 1),
        ),
    }


def _command(args: argparse.Namespace, flags: list[str], replaced: dict[str, str]) -> str:
    """The driver's command that makes the same numbers."""
    opts = dict(zip(args.opts[::2], args.opts[1::2], strict=True)) | replaced
    opts.pop("OUTPUT_DIR", None)  # the publisher's own
    words = [*flags, *(word for pair in opts.items() for word in pair)]
    return shlex.join(["python", "tools/train_net.py", "--config-file", args.config_file, *words])


if __name__ == "__main__":
    main()
