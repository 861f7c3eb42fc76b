#!/usr/bin/env python
r"""Speed and peak memory of quantization-aware training, with and without the Fisher-trace penalty.

    python -m benchmarks.bench_qat --output benchmarks/results/qat_cpu.json

A step is that of Detectron2's SimpleTrainer with QATHook: forward, losses of all decoder layers, backward,
clipping, fused AdamW, on a ResNet-50 whose stem and first stage are frozen. Weights are random, 4 bits wide,
activations 8 bits, scales learned (LSQ). Times are means over whole intervals. Variants take turns, each in a
process of its own; its peak memory is the resident one (on a GPU: torch's peak). A shared machine is faster
in one minute than in another: what a penalty costs is told by the steps of the same process without one, too.
On a CPU much depends on whether memory goes back to the system in between: the C library is told to keep it,
as docs/training.md does. With its defaults, or another allocator:

    GLIBC_TUNABLES= python -m benchmarks.bench_qat --output benchmarks/results/qat_defaults.json
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import time

import torch
from detectron2.engine import HookBase, SimpleTrainer

from benchmarks.bench_models import MODELS, NUM_CLASSES, our_batch, our_config
from benchmarks.turns import add_options, peak_bytes, synchronize, take_turns
from fisher_detr.engine import Trainer
from fisher_detr.engine.hooks import QATHook
from fisher_detr.engine.objectives import DetrObjective
from fisher_detr.engine.optimizer import ParameterGroups, build_optimizer
from fisher_detr.engine.qat import prepare
from fisher_detr.engine.scale_phases import QATSchedule
from fisher_detr.engine.trace_penalty import FisherTracePenalty, PenaltySettings
from fisher_detr.files import write_json
from fisher_detr.fisher import PenaltyMethod, TraceEstimate
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import calibrate_activations
from fisher_detr.structures import CategorySet

BITS, CLIP = 4, 0.1
# Warm-up, iterations and penalties: in the first the process still grows, and every new page is a fault.
WARMUP, WARMUP_PENALTIES = 6, 3
HEADS = ("class_embed", "bbox_embed")
CRITICAL = CategorySet("first", (0,), NUM_CLASSES)
# Side and batch that each model is measured with.
PROBLEMS = {"DETR": (512, 2), "DAB-DETR": (512, 2), "Deformable DETR": (320, 1)}
INTERVALS = (1, 4)
COLUMNS = ["step", "seconds", "times plain", "times QAT", "times those between", "memory (GiB)"]
ALLOCATOR = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_CONF")
# Settings with which the C library keeps freed blocks, in huge pages.
KEEP = {"mmap_threshold": 2**32, "trim_threshold": 2**36, "hugetlb": 1}


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is measured; without an estimate there is no penalty."""

    quantized: bool
    method: str = ""
    estimate: str = ""
    interval: int = 1

    @property
    def name(self) -> str:
        """For a row."""
        if not self.method:
            return "QAT" if self.quantized else "plain"
        return f"QAT + {self.method}, {self.estimate}, every {self.interval}"


VARIANTS = [Variant(False), Variant(True)] + [
    Variant(True, str(method), str(estimate), interval)
    for method, estimate, interval in itertools.product(PenaltyMethod, TraceEstimate, INTERVALS)
]


class Clock(HookBase):
    """Seconds from the beginning of every iteration to that of the next: what hooks do counts."""

    def __init__(self, device: str):
        """Wait for this device."""
        self._device = device
        self._times: list[float] = []

    @property
    def seconds(self) -> list[float]:
        """Of every iteration."""
        return [after - before for before, after in itertools.pairwise(self._times)]

    def before_step(self) -> None:
        """An iteration begins."""
        self._look()

    def after_train(self) -> None:
        """The last one has ended."""
        self._look()

    def _look(self) -> None:
        synchronize(self._device)
        self._times.append(time.perf_counter())


def main() -> None:
    """Parse the command line; measure everything, or one variant in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add_options(parser, size=None, batch=None, rounds=2, steps=4)
    args = parser.parse_args()
    if args.steps % max(INTERVALS):
        parser.error(f"--steps is {args.steps}, expected whole intervals: a multiple of {max(INTERVALS)}")
    if args.only:
        print(json.dumps(measure(args.only[0], VARIANTS[int(args.only[1])], args)))
        return
    keep = ":".join(f"glibc.malloc.{name}={value}" for name, value in KEEP.items())
    os.environ.setdefault("GLIBC_TUNABLES", keep)
    turns = {
        model: take_turns(
            "benchmarks.bench_qat",
            {variant.name: [model, str(index)] for index, variant in enumerate(VARIANTS)},
            args.rounds,
            args,
        )
        for model in args.models
    }
    results = describe(args, turns)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def allocator() -> str:
    """Where memory comes from, in words."""
    settings = [f"{name}={os.environ[name]}" for name in ALLOCATOR if os.environ.get(name)]
    return " with ".join(["the C library", *settings])


def measure(model_name: str, variant: Variant, args: argparse.Namespace) -> dict:
    """Seconds of every step and peak memory of this process in bytes."""
    size, batch_size = PROBLEMS[model_name]
    args = argparse.Namespace(**vars(args) | {"size": args.size or size, "batch": args.batch or batch_size})
    torch.manual_seed(0)
    model, batch = Trainer.build_float_model(our_config(MODELS[model_name], args)), our_batch(args)
    hooks: list[HookBase] = [Clock(args.device)]
    if variant.quantized:
        prepare(model, bits=BITS, skip=HEADS, fold_norm=True)
        calibrate_activations(model, [batch])
        hooks.append(QATHook(QATSchedule(), _penalty(variant), seed=0))
    optimizer = build_optimizer(
        model, ParameterGroups(weight_decay=1e-4), name="ADAMW", base_lr=1e-6, clip_norm=CLIP
    )
    trainer = SimpleTrainer(model, itertools.repeat(batch), optimizer)
    trainer.register_hooks(hooks)
    trainer.train(0, max(WARMUP, WARMUP_PENALTIES * variant.interval) + args.steps)
    return {"seconds": hooks[0].seconds[-args.steps :], "peak_bytes": peak_bytes(args.device)}


def times_between(turns: list[dict], interval: int) -> float:
    """Mean over whole intervals, times that of their steps without a penalty: the first of each has it."""
    return statistics.median(
        statistics.mean(turn["seconds"])
        / statistics.mean(x for i, x in enumerate(turn["seconds"]) if i % interval)
        for turn in turns
    )


def _penalty(variant: Variant) -> FisherTracePenalty | None:
    if not variant.method:
        return None
    settings = PenaltySettings(1.0, variant.method, variant.estimate, variant.interval)
    return FisherTracePenalty(DetrObjective(CRITICAL), settings)


def describe(args: argparse.Namespace, turns: dict[str, dict[str, list[dict]]]) -> dict:
    """The results file."""
    tables = []
    for model, of_model in turns.items():
        seconds = {
            name: statistics.median(statistics.mean(turn["seconds"]) for turn in found)
            for name, found in of_model.items()
        }
        rows = [
            [name, seconds[name], seconds[name] / seconds["plain"], seconds[name] / seconds["QAT"]]
            + [times_between(found, variant.interval) if variant.interval > 1 else "–"]
            + [max(turn["peak_bytes"] for turn in found) / 2**30]
            for variant, (name, found) in zip(VARIANTS, of_model.items(), strict=True)
        ]
        size, batch = PROBLEMS[model]
        tables.append(
            {
                "caption": f"{model}, {args.size or size} pixels, batch {args.batch or batch}",
                "columns": COLUMNS,
                "rows": rows,
            }
        )
    text = (
        f"ResNet-50, {BITS}-bit weights, 8-bit activations, LSQ; memory from {allocator()}; "
        f"{args.rounds} turns of {args.steps} steps, warmed up by {WARMUP} steps and {WARMUP_PENALTIES} "
        "penalties; medians of means over intervals; 'those between' are the steps of the same process "
        "without a penalty. Aimed for: a QAT step at most 1.3 times a plain one; every 4, times QAT: "
        "minibatch 1.5 by finite difference and 1.75 exact, per image 1.75 and 2.25."
    )
    program = "python -m benchmarks.bench_qat"
    return describe_study(program, "Steps of quantization-aware training", [text], tables)


if __name__ == "__main__":
    main()
