#!/usr/bin/env python
"""Time and memory of the quantization errors of all layers at seven widths, by how weights are rounded.

    python -m benchmarks.bench_rounding --output benchmarks/results/rounding_cpu.json

What a plan asks for once for each objective: a scale for every width and output channel, and the error that
it leaves. To nearest, the scale is that of the largest weight or of least squared error among 80; against the
Fisher information it is the best of 13, with the weights of a channel rounded one after the other. Weights
and moments are random. Ways take turns, each in a process of its own; its peak memory is the resident one
(on a GPU: torch's peak).
"""

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn

from benchmarks.bench_fisher import HEADS, WIDTHS
from benchmarks.bench_models import MODELS, our_config
from benchmarks.turns import add_turns, peak_bytes, synchronize, take_turns
from fisher_detr.engine import Trainer
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import FisherRounding, quantizable_layers, quantization_errors
from fisher_detr.structures import ScaleMethod

FISHER = "against the Fisher"
WAYS = {
    "to nearest, largest weight": ScaleMethod.MAX,
    "to nearest, squared error": ScaleMethod.MSE,
    FISHER: ScaleMethod.FISHER,
}


def main() -> None:
    """Parse the command line; measure everything, or one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["DETR"])
    add_turns(parser, rounds=3)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(*args.only, args.device)))
        return
    turns = {
        name: take_turns(
            "benchmarks.bench_rounding", {way: [name, way] for way in WAYS}, args.rounds, args, ("device",)
        )
        for name in args.models
    }
    results = describe(args, turns)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def measure(model: str, way: str, device: str) -> dict[str, float]:
    """Seconds for all layers, and peak memory of this process in bytes."""
    torch.manual_seed(0)
    cfg = our_config(MODELS[model], argparse.Namespace(device=device))
    net = float_model_for_quantization(Trainer.build_float_model(cfg), fold_norm=True)
    first, *layers = quantizable_layers(net, HEADS).values()
    timed(first, way, device)  # warms up
    seconds = sum(timed(layer, way, device) for layer in (first, *layers))
    return {"seconds": seconds, "peak_bytes": peak_bytes(device)}


def timed(layer: nn.Module, way: str, device: str) -> float:
    """Seconds for the errors of one layer."""
    weight = layer.weight.detach()
    moment = random_moment(weight, layer.bias is not None) if way == FISHER else None
    synchronize(device)
    start = time.perf_counter()
    rounding = None if moment is None else FisherRounding(weight, moment)
    quantization_errors(weight, WIDTHS, WAYS[way], rounding=rounding)
    synchronize(device)
    return time.perf_counter() - start


def random_moment(weight: Tensor, has_bias: bool) -> Tensor:
    """Of K inputs, `[K, K]`, and with a bias one more, as if 2 K of each had been seen."""
    inputs = weight[0].numel() + has_bias
    drawn = torch.randn(inputs, 2 * inputs, device=weight.device)
    return drawn @ drawn.mT


def describe(args: argparse.Namespace, turns: dict[str, dict[str, list[dict]]]) -> dict:
    """The results file."""
    rows = [
        [
            model,
            way,
            statistics.median(turn["seconds"] for turn in found),
            max(turn["peak_bytes"] for turn in found) / 2**30,
        ]
        for model, ways in turns.items()
        for way, found in ways.items()
    ]
    text = (
        f"Errors of all layers but the heads at {len(WIDTHS)} widths, on a ResNet-50 with random weights; "
        f"medians of {args.rounds} turns."
    )
    table = {
        "caption": "Seconds and memory",
        "columns": ["model", "rounding", "seconds", "memory (GiB)"],
        "rows": rows,
    }
    return describe_study("python -m benchmarks.bench_rounding", "Rounding of all layers", [text], [table])


if __name__ == "__main__":
    main()
