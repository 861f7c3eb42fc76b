#!/usr/bin/env python
"""Size of packed models, and the time that packing and unpacking take, beside the same model in float32.

    python -m benchmarks.bench_packed --output benchmarks/results/packed_cpu.json

Detectors on a ResNet-50 with random weights, every layer but the heads at one width. A packed file is written
and read by `save_packed` and `load_packed`, checksums included; the float32 one, of the model that is not
quantized, by the safetensors library, which maps it into memory to read it. On one thread; the files are in
the folder for temporary ones.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_model
from torch import nn

from benchmarks.bench_models import MODELS, our_config
from benchmarks.bench_qat import HEADS
from fisher_detr.engine import Trainer
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import load_packed, quantize_model, save_packed

WIDTHS = (3, 4, 8)
FLOAT = "float32"
COLUMNS = ["model", "weights", "file (MB)", "part of float32's", "seconds to write", "seconds to read"]


def main() -> None:
    """Parse the command line, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["DETR"])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each width")
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="packing is the processor's")
    parser.add_argument("--output", help="results file (JSON)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = describe(args, [row for name in args.models for row in measure(name, args.rounds)])
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def measure(name: str, rounds: int) -> list[list]:
    """Rows of a model, whose widths take turns."""
    models = {
        title: model_of(name, bits) for title, bits in [(FLOAT, 0), *((f"{b} bits", b) for b in WIDTHS)]
    }
    turns: dict[str, list[tuple[int, float, float]]] = {title: [] for title in models}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for title, model in models.items():
                path = Path(folder, f"{number}.safetensors")
                turns[title].append(write_and_read(path, model, title == FLOAT))
                path.unlink()
    whole = turns[FLOAT][0][0]
    return [
        [name, title, size / 1e6, size / whole, *(statistics.median(column) for column in times)]
        for title, found in turns.items()
        for size, *times in [(found[0][0], *list(zip(*found, strict=True))[1:])]
    ]


def model_of(name: str, bits: int) -> nn.Module:
    """A model with random weights; quantized unless `bits` is 0."""
    torch.manual_seed(0)
    cfg = our_config(MODELS[name], argparse.Namespace(device="cpu"))
    model = float_model_for_quantization(Trainer.build_float_model(cfg), fold_norm=True)
    if bits:
        quantize_model(model, bits=bits, skip=HEADS)
    return model


def write_and_read(path: Path, model: nn.Module, is_float: bool) -> tuple[int, float, float]:
    """Bytes of the file, and seconds for it both ways."""
    write: Callable[[], Any] = functools.partial(save_packed, path, model.state_dict(), {})
    read: Callable[[], Any] = functools.partial(load_packed, path)
    if is_float:
        write, read = functools.partial(save_model, model, str(path)), functools.partial(load_file, path)
    written = timed(write)
    return path.stat().st_size, written, timed(read)


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def describe(args: argparse.Namespace, rows: list[list]) -> dict:
    """The results file."""
    text = (
        "ResNet-50, heads in float32, one thread; medians of "
        f"{args.rounds} turns. Aimed for: 4 bits below 24 MB, and 2 seconds either way."
    )
    table = {"caption": "One file", "columns": COLUMNS, "rows": rows}
    return describe_study(
        "python -m benchmarks.bench_packed", "Packed models", [text], [table], peers=["safetensors"]
    )


if __name__ == "__main__":
    main()
