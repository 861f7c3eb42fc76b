#!/usr/bin/env python
"""How time and memory of the sensitivities grow: with image size, queries, layers, images and ranks.

    python -m benchmarks.bench_scaling --output benchmarks/results/scaling_cpu.json

What is timed is the pass that decides the widths: block sensitivities of all layers and seven widths to L_A
and L_F, of a DETR on a ResNet-50 with random weights. One thing at a time is varied. Every point is a process
of its own, ranks are processes of one thread each; points take turns. A pass over one image warms up. The
exponent is the slope of a line through the logarithms.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor, distributed

from benchmarks.bench_fisher import HEADS, SETS, WIDTHS, in_passes
from benchmarks.bench_models import our_batch, our_config
from benchmarks.turns import ROOT, peak_bytes
from fisher_detr.engine import Trainer
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.files import write_json
from fisher_detr.fisher import estimate_sensitivity
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import layer_infos, quantizable_layers, quantization_error


@dataclasses.dataclass(frozen=True)
class Point:
    """One problem.

    Attributes:
        size: side of the square images, pixels.
        queries: of the decoder.
        layers: of the encoder, and of the decoder.
        images: of all ranks.
        ranks: processes.
        threads: of each process; 0: all.
    """

    size: int = 384
    queries: int = 100
    layers: int = 6
    images: int = 4
    ranks: int = 1
    threads: int = 0


AXES = {
    "image side (pixels)": [Point(size=size) for size in (256, 384, 512, 640)],
    "queries": [Point(queries=count) for count in (50, 100, 300, 900)],
    "layers of encoder and decoder": [Point(layers=count) for count in (3, 6, 12)],
    "images": [Point(images=count) for count in (2, 4, 8, 16)],
    "ranks of one thread, 8 images": [Point(images=8, ranks=count, threads=1) for count in (1, 2)],
}
VARIED = dict(zip(AXES, ("size", "queries", "layers", "images", "ranks"), strict=True))


def main() -> None:
    """Parse the command line; measure everything, or one point in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each point")
    parser.add_argument("--output", help="results file (JSON)")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        found = measure(Point(**json.loads(args.only)))
        if int(os.environ.get("RANK", 0)) == 0:
            print(json.dumps(found))
        return
    turns: dict[Point, list[dict]] = {point: [] for points in AXES.values() for point in points}
    for _ in range(args.rounds):
        for point, found in turns.items():
            found.append(run(point))
            print(point, found[-1], file=sys.stderr)
    results = describe(args.rounds, turns)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def run(point: Point) -> dict:
    """Measure a point in processes of its own."""
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={point.ranks}"] if point.ranks > 1 else []
    words = ["--only", json.dumps(dataclasses.asdict(point))]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "benchmarks.bench_scaling", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | ({"OMP_NUM_THREADS": str(point.threads)} if point.threads else {}),
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(point: Point) -> dict:
    """Seconds of the passes after the first, for all images, and peak memory of this process in bytes."""
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    torch.manual_seed(0)
    options = argparse.Namespace(size=point.size, batch=1, device="cpu")
    cfg = our_config("detr_r50", options)
    cfg.MODEL.DETR.NUM_QUERIES = point.queries
    cfg.MODEL.DETR.ENC_LAYERS = cfg.MODEL.DETR.DEC_LAYERS = point.layers
    net = float_model_for_quantization(Trainer.build_float_model(cfg), fold_norm=True)
    weights = {name: layer.weight for name, layer in quantizable_layers(net, HEADS).items()}

    def error(name: str, bits: int) -> Tensor:
        return quantization_error(weights[name], bits)

    sample = our_batch(options)
    infos, losses = layer_infos(net, HEADS, per_channel=True), image_losses(net, SETS[0])
    first = in_passes([sample], point.size)
    estimate_sensitivity(losses, weights, first * point.ranks, error, infos, WIDTHS)  # warms up
    passes = in_passes([sample * point.images], point.size)
    start = time.perf_counter()
    estimate_sensitivity(losses, weights, passes, error, infos, WIDTHS)
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes("cpu")}


def describe(rounds: int, turns: dict[Point, list[dict]]) -> dict:
    """The results file."""
    rows, exponents = [], []
    for axis, points in AXES.items():
        values = [getattr(point, VARIED[axis]) for point in points]
        seconds = [statistics.median(turn["seconds"] for turn in turns[point]) for point in points]
        memory = [max(turn["peak_bytes"] for turn in turns[point]) / 2**30 for point in points]
        rows += [list(row) for row in zip([axis] * len(points), values, seconds, memory, strict=True)]
        exponents.append([axis, slope(values, seconds), slope(values, memory)])
    base = Point()
    text = (
        f"DETR on a ResNet-50, 7 widths, two objectives; {base.images} images of {base.size} x {base.size}, "
        f"{base.queries} queries, {base.layers} layers of encoder and decoder but for what is varied; "
        f"medians of {rounds} turns."
    )
    columns = ["varied", "value", "seconds", "memory (GiB)"]
    tables = [
        {"caption": "Seconds and memory", "columns": columns, "rows": rows},
        {"caption": "Exponents", "columns": ["varied", "of the time", "of the memory"], "rows": exponents},
    ]
    program, title = "python -m benchmarks.bench_scaling", "Scaling of the sensitivities"
    return describe_study(program, title, [text], tables)


def slope(values: list[int], measured: list[float]) -> float:
    """Of a line through the logarithms: 1 where it grows in proportion, 0 where it does not grow."""
    return float(np.polyfit(np.log(values), np.log(measured), 1)[0])


if __name__ == "__main__":
    main()
