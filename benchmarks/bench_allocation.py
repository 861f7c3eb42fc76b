#!/usr/bin/env python
"""Seconds that the integer program takes for DETR on a ResNet-101, with one limit and with three.

    python -m benchmarks.bench_allocation --output benchmarks/results/allocation_cpu.json

Layers and multiply-accumulates are the model's, on one square image; sensitivities are drawn anew with each
seed, over about six decades between layers, by about four less with each bit. The budget is that of 4 bits;
beside it, bit operations are limited to those of 4 bits with activations of 8, and latency to 95% of that of
4 bits, where a layer takes half of its time whatever its width and the other half by its container.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fisher_detr.allocation import (
    Aggregate,
    Constraint,
    Costs,
    allocate,
    bit_operation_limit,
    budget_bytes,
    latency_limit,
    pareto,
)
from fisher_detr.engine import Trainer, load_config
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import count_macs, layer_infos
from fisher_detr.structures import BitAllocation, LayerInfo

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/coco/detr_r101_ptq.yaml"
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
AVERAGE_BITS, ACTIVATION_BITS, LATENCY_PART = 4, 8, 0.95
CONTAINERS = {bits: next(size for size in (2, 4, 8) if size >= bits) for bits in WIDTHS}
SETS = ("person", "sign", "animal")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the image, pixels")
    parser.add_argument("--seeds", type=int, default=10, help="problems of each kind")
    parser.add_argument("--gap", type=float, default=1e-3, help="relative optimality gap")
    parser.add_argument("--points", type=int, default=25, help="budgets of a curve")
    parser.add_argument("--output", help="results file (JSON)")
    args = parser.parse_args()
    layers, macs = model_layers(args.size)
    rows = [measure(kind, layers, macs, args) for kind in KINDS]
    results = describe(layers, rows, args)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def model_layers(size: int) -> tuple[tuple[LayerInfo, ...], dict[str, int]]:
    """Quantizable layers of DETR-R101, and their multiply-accumulates for one image."""
    cfg = load_config(
        str(ROOT / CONFIG),
        ["MODEL.DETR.NUM_CLASSES", 80, "DATASETS.TRAIN", (), "DATASETS.TEST", ()]
        + ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""],
    )
    model, skip = Trainer.build_model(cfg).eval(), tuple(cfg.QUANT.SKIP_LAYERS)
    image = {"image": torch.zeros(3, size, size), "height": size, "width": size}
    return layer_infos(model, skip), count_macs(model, lambda: model([image]), skip)


def measure(
    kind: str, layers: Sequence[LayerInfo], macs: dict[str, int], args: argparse.Namespace
) -> list[str | float]:
    """A row of the table: the kind, and seconds and gap over the seeds after one to warm up."""
    seconds, gaps = [], []
    for seed in [0, *range(args.seeds)]:
        rng = np.random.default_rng(seed)
        start = time.perf_counter()
        plans = KINDS[kind](rng, layers, macs, args)
        seconds.append(time.perf_counter() - start)
        gaps.append(max(plan.meta["gap"] for plan in plans))
    return [kind, statistics.median(seconds[1:]), max(seconds[1:]), 1e3 * max(gaps[1:])]


def one_limit(rng, layers, macs, args) -> list[BitAllocation]:
    """Bytes alone."""
    cost = random_cost(rng, random_level(rng, layers))
    return [allocate(cost, layers, WIDTHS, budget_bytes(layers, AVERAGE_BITS), args.gap)]


def three_limits(rng, layers, macs, args) -> list[BitAllocation]:
    """Bytes, bit operations and latency."""
    cost = random_cost(rng, random_level(rng, layers))
    budget = budget_bytes(layers, AVERAGE_BITS)
    return [allocate(cost, layers, WIDTHS, budget, args.gap, constraints=other_limits(rng, layers, macs))]


def worst_case(rng, layers, macs, args) -> list[BitAllocation]:
    """The worst of three sets within three limits."""
    level = random_level(rng, layers)
    costs = {name: random_cost(rng, level * 10 ** rng.uniform(-0.7, 0.7, level.shape)) for name in SETS}
    return [
        allocate(
            Costs.of(costs, aggregate=Aggregate.WORST_CASE),
            *(layers, WIDTHS, budget_bytes(layers, AVERAGE_BITS), args.gap),
            constraints=other_limits(rng, layers, macs),
        )
    ]


def curve(rng, layers, macs, args) -> list[BitAllocation]:
    """Plans from the smallest to the best, bytes alone."""
    cost = random_cost(rng, random_level(rng, layers))
    return pareto(cost, layers, WIDTHS, args.points, args.gap)


KINDS: dict[str, Callable[..., list[BitAllocation]]] = {
    "bytes": one_limit,
    "bytes, bit operations, latency": three_limits,
    "the same three, worst case of three sets": worst_case,
    "curve of cost against bytes": curve,
}


def random_level(rng: np.random.Generator, layers: Sequence[LayerInfo]) -> np.ndarray:
    """How sensitive each layer is, `[L, 1]`."""
    return 10 ** rng.uniform(-3.0, 3.0, (len(layers), 1))


def random_cost(rng: np.random.Generator, level: np.ndarray) -> np.ndarray:
    """Sensitivities `[L, W]` that fall by about four with each bit."""
    noise = np.exp(rng.normal(0.0, 0.3, (len(level), len(WIDTHS))))
    return level * 4.0 ** -np.array(WIDTHS) * noise


def other_limits(
    rng: np.random.Generator, layers: Sequence[LayerInfo], macs: dict[str, int]
) -> list[Constraint]:
    """Bit operations and latency, a little below those of a uniform plan."""
    column = WIDTHS.index(AVERAGE_BITS)
    full = {layer.name: macs[layer.name] * 1e-9 for layer in layers}
    times = {
        name: {bits: time_at_8 * (0.5 + CONTAINERS[bits] / 16) * rng.uniform(0.9, 1.1) for bits in WIDTHS}
        for name, time_at_8 in full.items()
    }
    work = bit_operation_limit(layers, WIDTHS, macs, ACTIVATION_BITS, 0).usage[:, column].sum()
    latency = latency_limit(layers, WIDTHS, times, 0).usage[:, column].sum()
    return [
        bit_operation_limit(layers, WIDTHS, macs, ACTIVATION_BITS, work),
        latency_limit(layers, WIDTHS, times, LATENCY_PART * latency),
    ]


def describe(layers: Sequence[LayerInfo], rows: list[list], args: argparse.Namespace) -> dict:
    """The results file."""
    table = {
        "caption": "Seconds for a plan, or for all plans of a curve, and the largest gap that was proven",
        "columns": ["limits", "median", "largest", "gap, thousandths"],
        "rows": rows,
    }
    text = (
        f"DETR on a ResNet-101, {len(layers)} layers, {len(WIDTHS)} widths, an image of {args.size} x "
        f"{args.size}; gap {args.gap:g}; {args.seeds} problems of each kind after one to warm up; a curve "
        f"has up to {args.points} plans."
    )
    program = "python -m benchmarks.bench_allocation"
    return describe_study(program, "Integer program for the widths", [text], [table])


if __name__ == "__main__":
    main()
