#!/usr/bin/env python
r"""Speed and peak memory of quantization-aware training, with and without the Fisher-trace penalty.

    python -m benchmarks.bench_qat --output benchmarks/results/qat_cpu.json

A step is that of Detectron2's SimpleTrainer with QATHook: forward, losses of all decoder layers, backward,
clipping, fused AdamW, on a ResNet-50 whose stem and first stage are frozen. Weights are random, 4 bits wide,
activations 8 bits, scales learned (LSQ). Every variant has a process of its own; its peak memory is the
resident one (on a GPU: torch's peak). A shared machine is faster in one minute than in another: those of the
plain step and of QAT stay while the others come and go, and a variant is compared with theirs of the same
seconds. A turn is whole intervals long.
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
from collections.abc import Iterator, Sequence

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from benchmarks.bench_models import MODELS, NUM_CLASSES, our_batch, our_config
from benchmarks.turns import Contestant, add_options, answer_turns, peak_bytes, synchronize
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
COLUMNS = ["step", "seconds", "times plain", "times QAT", "in single turns", "memory (GiB)"]
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


PLAIN, QAT = PEERS = (Variant(False), Variant(True))
PENALIZED = [
    Variant(True, str(method), str(estimate), interval)
    for method, estimate, interval in itertools.product(PenaltyMethod, TraceEstimate, INTERVALS)
]
VARIANTS = [*PEERS, *PENALIZED]
Turns = dict[Variant, list[dict]]  # what each one measured, turn by turn


def main() -> None:
    """Parse the command line; measure everything, or one variant in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add_options(parser, size=None, batch=None, rounds=4, steps=4)
    args = parser.parse_args()
    if args.steps % max(INTERVALS):
        parser.error(f"--steps is {args.steps}, expected whole intervals: a multiple of {max(INTERVALS)}")
    if args.only:
        compete(args.only[0], VARIANTS[int(args.only[1])], args)
        return
    keep = ":".join(f"glibc.malloc.{name}={value}" for name, value in KEEP.items())
    os.environ.setdefault("GLIBC_TUNABLES", keep)
    results = describe(args, {model: compare(model, args) for model in args.models})
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def compare(model: str, args: argparse.Namespace) -> list[Turns]:
    """Turns of the plain step and of QAT by themselves, and of the two with each of the others."""

    def start(variant: Variant) -> Contestant:
        return Contestant("benchmarks.bench_qat", [model, str(VARIANTS.index(variant))], args)

    def take_turns(contestants: dict[Variant, Contestant]) -> Turns:
        rounds = [{v: found.take_turn() for v, found in contestants.items()} for _ in range(args.rounds)]
        return {v: [turns[v] for turns in rounds] for v in contestants}

    with start(PLAIN) as plain, start(QAT) as qat:
        peers = {PLAIN: plain, QAT: qat}
        found = [take_turns(peers)]
        for variant in PENALIZED:
            with start(variant) as another:
                found.append(take_turns(peers | {variant: another}))
    return found


def compete(model_name: str, variant: Variant, args: argparse.Namespace) -> None:
    """Be the process of a variant: seconds of a turn's steps, and peak memory until then in bytes."""
    seconds = steps(build(model_name, variant, args), args.device)
    for _ in range(max(WARMUP, WARMUP_PENALTIES * variant.interval)):
        next(seconds)

    def measure() -> dict:
        of_turn = list(itertools.islice(seconds, args.steps))
        return {"seconds": of_turn, "peak_bytes": peak_bytes(args.device)}

    answer_turns(measure)


def allocator() -> str:
    """Where memory comes from, in words."""
    settings = [f"{name}={os.environ[name]}" for name in ALLOCATOR if os.environ.get(name)]
    return " with ".join(["the C library", *settings])


def build(model_name: str, variant: Variant, args: argparse.Namespace) -> SimpleTrainer:
    """A trainer of the model, whose images are always the same."""
    size, batch_size = PROBLEMS[model_name]
    args = argparse.Namespace(**vars(args) | {"size": args.size or size, "batch": args.batch or batch_size})
    torch.manual_seed(0)
    model, batch = Trainer.build_float_model(our_config(MODELS[model_name], args)), our_batch(args)
    if variant.quantized:
        prepare(model, bits=BITS, skip=HEADS, fold_norm=True)
        calibrate_activations(model, [batch])
    optimizer = build_optimizer(
        model, ParameterGroups(weight_decay=1e-4), name="ADAMW", base_lr=1e-6, clip_norm=CLIP
    )
    trainer = SimpleTrainer(model, itertools.repeat(batch), optimizer)
    if variant.quantized:
        trainer.register_hooks([QATHook(QATSchedule(), penalty(variant), seed=0)])
    return trainer


def penalty(variant: Variant) -> FisherTracePenalty | None:
    """That of a variant, if it has one."""
    if not variant.method:
        return None
    settings = PenaltySettings(1.0, variant.method, variant.estimate, variant.interval)
    return FisherTracePenalty(DetrObjective(CRITICAL), settings)


def steps(trainer: SimpleTrainer, device: str) -> Iterator[float]:
    """Train without end; yields the seconds of every iteration, what hooks do included."""
    with EventStorage() as trainer.storage:
        trainer.before_train()
        for trainer.iter in itertools.count():
            synchronize(device)
            begin = time.perf_counter()
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            synchronize(device)
            yield time.perf_counter() - begin


def times(turns: Turns, variant: Variant, peer: Variant) -> list[float]:
    """How many times as long the variant takes as its peer in the same round, round by round."""
    pairs = zip(turns[variant], turns[peer], strict=True)
    return [mean_seconds(turn) / mean_seconds(other) for turn, other in pairs]


def mean_seconds(turn: dict) -> float:
    """Of a step, over the whole intervals of a turn."""
    return statistics.mean(turn["seconds"])


def describe(args: argparse.Namespace, found: dict[str, Sequence[Turns]]) -> dict:
    """The results file."""
    tables = []
    for model, of_model in found.items():
        size, batch = PROBLEMS[model]
        caption = f"{model}, {args.size or size} pixels, batch {args.batch or batch}"
        tables.append({"caption": caption, "columns": COLUMNS, "rows": rows(of_model)})
    text = (
        f"ResNet-50, {BITS}-bit weights, 8-bit activations, LSQ; memory from {allocator()}; "
        f"{args.rounds} turns of {args.steps} steps, warmed up by {WARMUP} steps and {WARMUP_PENALTIES} "
        "penalties; medians of means over intervals, and of their ratios to those of the same seconds; "
        "single turns are of the ratio to QAT, those of QAT to the plain step. "
        "Aimed for: a QAT step at most 1.3 times a plain one; every 4, times QAT: minibatch 1.5 by finite "
        "difference and 1.75 exact, per image 1.75 and 2.25."
    )
    program = "python -m benchmarks.bench_qat"
    return describe_study(program, "Steps of quantization-aware training", [text], tables)


def rows(found: Sequence[Turns]) -> list[list]:
    """Of a model's table: the peers' from all turns, each variant's from its own and the peers' beside it."""
    _, *beside = found
    of_peers = {peer: [turn for turns in found for turn in turns[peer]] for peer in PEERS}
    return [row(of_peers, peer) for peer in PEERS] + [
        row(turns, variant) for variant, turns in zip(PENALIZED, beside, strict=True)
    ]


def row(turns: Turns, variant: Variant) -> list:
    """Name, seconds, times the plain step, times QAT (a plain step: itself), the least and the most, GiB."""
    seconds = statistics.median(mean_seconds(turn) for turn in turns[variant])
    memory = max(turn["peak_bytes"] for turn in turns[variant]) / 2**30
    plain, qat = (times(turns, variant, peer) for peer in PEERS)
    single = plain if variant == QAT else qat
    spread = f"{min(single):.2f} to {max(single):.2f}"
    return [variant.name, seconds, statistics.median(plain), statistics.median(qat), spread, memory]


if __name__ == "__main__":
    main()
