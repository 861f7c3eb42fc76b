#!/usr/bin/env python
"""Latency, file size and peak memory of exported detectors beside PyTorch, on the processor.

    python -m benchmarks.bench_deploy --output benchmarks/results/deploy_cpu.json

Detectors of ResNet-50 with random weights, quantized at one width for all layers, or by a plan as large in
containers as 4 bits everywhere: random weights have no sensitivities worth the name, so it is the plan with
the least squared error of the weights. Files are written once, into --folder. Variants take turns, each in a
process of its own that loads one file, runs it once and is then measured; its peak memory is the resident
one, torch and onnxruntime included.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.bench_models import MODELS, our_batch, our_config
from benchmarks.turns import OPTIONS, ROOT, add_options, peak_bytes, take_turns
from fisher_detr.allocation import allocate
from fisher_detr.engine import Trainer, float_bytes
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.export import (
    ExportSettings,
    OnnxDetector,
    Precision,
    export_onnx,
    processor_flags,
)
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import (
    calibrate_activations,
    layer_infos,
    quantizable_layers,
    quantization_error,
    quantize_model,
)
from fisher_detr.structures import BitAllocation

HEADS = ("class_embed", "bbox_embed")
PEERS = ("onnx", "onnxruntime")
TORCH, FLOAT = "PyTorch, float32", "onnxruntime, float32"
WIDTHS = {"onnxruntime, W8A8": 8, "onnxruntime, W4A8": 4}  # of the weights, in bits
PLAN, PLAN_BITS, CANDIDATES = "onnxruntime, plan of 4 bits, A8", 4, (2, 4, 8)
VARIANTS = (TORCH, FLOAT, *WIDTHS, PLAN)
WRITE = "write "  # before a variant: make its file
_SETS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
AIMS = (
    "Aimed for with DETR: W8A8 at least 1.6 times as fast as onnxruntime's float32 without VNNI and 2 times "
    "with it, no model slower; a file of W8 at most 0.27 of float32's, of a plan of 4 bits 0.15."
)


def main() -> None:
    """Parse the command line; measure everything, or one variant in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "deploy", help="of the files")
    add_options(parser, size=640, batch=1, rounds=3, steps=10)
    args = parser.parse_args()
    args.device = "cpu"
    if args.only:
        model, variant = args.only
        do = write if variant.startswith(WRITE) else measure
        print(json.dumps(do(model, variant.removeprefix(WRITE), args)))
        return
    turns = {}
    for model in args.models:
        # In processes of their own, too: a process begins with the peak memory of the one that started it.
        absent = [name for name in VARIANTS[1:] if not file_of(model, name, args).exists()]
        take = functools.partial(take_turns, "benchmarks.bench_deploy", args=args, keys=(*OPTIONS, "folder"))
        take({name: [model, WRITE + name] for name in absent}, rounds=1)
        turns[model] = take({name: [model, name] for name in VARIANTS}, rounds=args.rounds)
    results = describe(args, turns)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def instruction_sets() -> str:
    """Those of this processor that integer products depend on, for a text."""
    return f"Instruction sets: {', '.join(name for name in _SETS if name in processor_flags()) or 'unknown'}."


def file_of(model: str, variant: str, args: argparse.Namespace) -> Path:
    """Where a variant's file is."""
    kind = "plan" if variant == PLAN else f"{WIDTHS.get(variant, 32)}bit"
    return args.folder / f"{MODELS[model]}_{args.size}_{kind}.onnx"


def build(model: str, args: argparse.Namespace) -> nn.Module:
    """The detector in eval mode, batch norms folded; the same weights every time."""
    torch.manual_seed(0)
    return float_model_for_quantization(Trainer.build_float_model(our_config(MODELS[model], args)), True)


def plan(net: nn.Module) -> BitAllocation:
    """Widths with the least squared error at the bytes of 4 bits everywhere, as containers hold them."""
    layers, found = layer_infos(net, HEADS), quantizable_layers(net, HEADS)
    cost = [
        [quantization_error(found[layer.name].weight, bits).square().sum().item() for bits in CANDIDATES]
        for layer in layers
    ]
    # The candidates are the widths that containers have: these bytes are those of the containers.
    return allocate(np.array(cost), layers, CANDIDATES, sum(layer.size_bytes(PLAN_BITS) for layer in layers))


def write(model: str, variant: str, args: argparse.Namespace) -> dict[str, int]:
    """Export a variant; bytes of its file.

    Scores of random weights are all low: there are no detections to compare.
    """
    net, images = build(model, args), our_batch(args)
    precision = Precision.FLOAT
    if variant != FLOAT:
        widths = plan(net) if variant == PLAN else None
        quantize_model(net, widths, bits=WIDTHS.get(variant), skip=HEADS)
        calibrate_activations(net, [images])
        precision = Precision.INTEGER
    path = file_of(model, variant, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = export_onnx(net, path, images, ExportSettings(precision), verify=False)
    return {"file_bytes": result.size_bytes}


def measure(model: str, variant: str, args: argparse.Namespace) -> dict[str, float | list[float]]:
    """Seconds of every run after the first, bytes of the weights' file, and this process' peak memory."""
    if variant == TORCH:
        net = build(model, args)
        size = float_bytes(net)
    else:
        path = file_of(model, variant, args)
        net, size = OnnxDetector(path), path.stat().st_size
    return {
        "seconds": timed(net, our_batch(args), args.steps),
        "file_bytes": size,
        "peak_bytes": peak_bytes("cpu"),
    }


@torch.inference_mode()
def timed(net: Callable, batch: list[dict], steps: int) -> list[float]:
    """Seconds of every run after the first."""
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        net(batch)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def describe(args: argparse.Namespace, turns: dict[str, dict[str, list[dict]]]) -> dict:
    """The results file."""
    rows = []
    for model, of_model in turns.items():
        seconds = {name: [s for turn in found for s in turn["seconds"]] for name, found in of_model.items()}
        plain = statistics.median(seconds[FLOAT])
        float_file = of_model[FLOAT][0]["file_bytes"]
        for name, found in of_model.items():
            median, p95 = np.percentile(seconds[name], [50, 95]).tolist()
            size, memory = found[0]["file_bytes"], max(turn["peak_bytes"] for turn in found)
            rows.append(
                [model, name, 1e3 * median, 1e3 * p95, plain / median]
                + [size / 1e6, size / float_file, memory / 2**30]
            )
    table = {
        "caption": f"One image of {args.size} x {args.size}, ResNet-50, on {torch.get_num_threads()} threads",
        "columns": ["model", "runs in", "median (ms)", "95th percentile (ms)", "times as fast as float32"]
        + ["file (MB)", "of float32's", "peak memory (GiB)"],
        "rows": rows,
    }
    text = [
        f"{args.rounds} turns of {args.steps} runs after the first. {instruction_sets()} "
        "PyTorch's file is its float32 tensors.",
        AIMS,
    ]
    return describe_study(
        "python -m benchmarks.bench_deploy", "Exported detectors", text, [table], peers=PEERS
    )


if __name__ == "__main__":
    main()
