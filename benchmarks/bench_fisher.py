#!/usr/bin/env python
"""Time and peak memory of the Fisher information of all layers, beside a training pass over the same images.

    python -m benchmarks.bench_fisher --output benchmarks/results/fisher_cpu.json

The plain pass is forward, losses of all decoder layers of all images, and backward, with all parameters
requiring gradient, batch norms folded. The Fisher diagonal is that of all quantized layers, for one objective
or several from one forward pass, in passes of as many images as FISHER.BATCH_PIXELS allows or of whole
batches; the block form is that of seven widths. Weights are random. Variants take turns, each in a process of
its own; its peak memory is the resident one (on a GPU: torch's peak). The first batch, which is compared with
autograd, is left out. On a ResNet-50 classifier other ways to gradients of single images are measured beside,
and curvlinops, which has no diagonal: one product of the empirical Fisher with a vector, of which an estimate
takes many. On a detector, whose loss is no function of an output tensor and labels, none of them can be run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torchvision
from backpack import backpack, extend
from backpack.extensions import SumGradSquared
from curvlinops import EFLinearOperator
from torch import Tensor, nn

from benchmarks.bench_models import MODELS, NUM_CLASSES, our_batch, our_config
from benchmarks.turns import add_options, peak_bytes, synchronize, take_turns
from fisher_detr.engine import Trainer
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.fisher_settings import FisherSettings
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.files import write_json
from fisher_detr.fisher import (
    GradientMethod,
    ImagePass,
    LossFn,
    PassSettings,
    estimate_fisher,
    estimate_sensitivity,
)
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import layer_infos, quantizable_layers, quantization_error
from fisher_detr.structures import CategorySet

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
HEADS = ("class_embed", "bbox_embed")
PEERS = ("backpack-for-pytorch", "curvlinops-for-pytorch")
SETS = [CategorySet(f"set{i}", (i,), NUM_CLASSES) for i in range(2)]
PLAIN, SINGLE = "plain forward and backward", "diagonal, 1 objective, by autograd"
WHOLE = "diagonal, 1 objective, whole batches"
# Critical sets of each diagonal.
DIAGONALS = {f"diagonal, {1 + count} objective{'s' if count else ''}": count for count in range(3)}
BLOCK = "block, 7 widths, 2 objectives"
DETECTOR = [PLAIN, *DIAGONALS, BLOCK, WHOLE, SINGLE]
VMAP, BACKPACK = "torch.func: vmap of grad", "BackPACK: SumGradSquared"
CURVLINOPS = "curvlinops: one product with a vector"
CLASSIFIER = [PLAIN, next(iter(DIAGONALS)), WHOLE, SINGLE, VMAP, BACKPACK, CURVLINOPS]
RESNET = "ResNet-50 classifier"
AIMS = (
    "Aimed for, times the plain pass: 1.3 for one objective, 2.3 for two, 1.0 more for each further one; "
    "never slower than image by image; 1.3 times the memory."
)


def main() -> None:
    """Parse the command line; measure everything, or one variant in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=[*MODELS, RESNET], default=["DETR", RESNET])
    add_options(parser, size=512, batch=4, rounds=2, steps=2)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(*args.only, args)))
        return
    turns = {
        model: take_turns(
            "benchmarks.bench_fisher",
            {name: [model, name] for name in (CLASSIFIER if model == RESNET else DETECTOR)},
            args.rounds,
            args,
        )
        for model in args.models
    }
    results = describe(args, turns)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def measure(model: str, variant: str, args: argparse.Namespace) -> dict:
    """Seconds of every batch after the first, and peak memory of this process in bytes."""
    torch.manual_seed(0)
    times: list[float] = []

    def look(_pass: ImagePass | None = None) -> None:
        synchronize(args.device)
        times.append(time.perf_counter())

    problem = classifier_problem if model == RESNET else detector_problem
    problem(model, variant, args)(look)
    batches = 1 + args.steps
    seconds = (times[-1] - times[-1 - args.steps * (len(times) // batches)]) / args.steps
    return {"seconds": seconds, "peak_bytes": peak_bytes(args.device)}


def detector_problem(model: str, variant: str, args: argparse.Namespace) -> Callable:
    """What a variant does on a detector with random weights."""
    net = float_model_for_quantization(
        Trainer.build_float_model(our_config(MODELS[model], args)), fold_norm=True
    )
    batches = [our_batch(args)] * (1 + args.steps)
    layers = quantizable_layers(net, HEADS)
    weights = {name: layer.weight for name, layer in layers.items()}
    loss_fn = several_losses(net, DIAGONALS.get(variant, 1 if variant == BLOCK else 0))
    if variant == BLOCK:
        infos = layer_infos(net, HEADS, per_channel=True)

        def error(name: str, bits: int) -> Tensor:
            return quantization_error(weights[name], bits)

        return lambda look: estimate_sensitivity(
            loss_fn, weights, in_passes(batches, args.size), error, infos, WIDTHS, keeper=lambda _pass: look
        )
    passes = batches if variant in (PLAIN, WHOLE) else in_passes(batches, args.size)
    return common_problem(net, loss_fn, weights, passes, variant)


def in_passes(batches: Sequence[Sequence], size: int) -> list[Sequence]:
    """The batches in the parts that the engine makes of them."""
    most = max(1, FisherSettings().batch_pixels // size**2)
    return [batch[i : i + most] for batch in batches for i in range(0, len(batch), most)]


def several_losses(net: nn.Module, num_sets: int) -> LossFn:
    """Losses of L_A and of critical sets, of all decoder layers."""
    if num_sets < 2:
        return image_losses(net, SETS[0] if num_sets else None)
    names = ["overall", *(f"critical:{chosen.name}" for chosen in SETS[:num_sets])]
    return lambda batch: dict(zip(names, net.image_objectives(batch, [None, *SETS[:num_sets]]), strict=True))


def classifier_problem(_model: str, variant: str, args: argparse.Namespace) -> Callable:
    """What a variant does on torchvision's classifier with random weights."""
    net = torchvision.models.resnet50().eval().to(args.device)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    labels = torch.arange(args.batch, device=args.device)
    batches = [list(zip(images, labels, strict=True))] * (1 + args.steps)
    weights = {name: m.weight for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}

    def losses(batch: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        x, y = (torch.stack(part) for part in zip(*batch, strict=True))
        return {"overall": nn.functional.cross_entropy(net(x), y, reduction="none")}

    if variant == VMAP:
        return lambda look: by_vmap(net, weights, images, labels, 1 + args.steps, look)
    if variant == BACKPACK:
        return lambda look: by_backpack(net, images, labels, 1 + args.steps, look)
    if variant == CURVLINOPS:
        parameters = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return lambda look: by_curvlinops(net, parameters, images, labels, 1 + args.steps, look)
    passes = batches if variant in (PLAIN, WHOLE) else in_passes(batches, args.size)
    return common_problem(net, losses, weights, passes, variant)


def common_problem(
    net: nn.Module, loss_fn: LossFn, weights: dict[str, Tensor], batches: Sequence, variant: str
) -> Callable:
    """The plain pass, or a diagonal."""
    if variant != PLAIN:
        method = GradientMethod.SINGLE if variant == SINGLE else GradientMethod.BATCHED
        settings = PassSettings(method, progress=False)
        return lambda look: estimate_fisher(loss_fn, weights, batches, settings, lambda _pass: look)

    def plain(look: Callable) -> None:
        net.requires_grad_(True)
        for batch in batches:
            loss_fn(batch)["overall"].sum().backward()
            net.zero_grad(set_to_none=True)
            look()

    return plain


def by_vmap(
    net: nn.Module, weights: dict[str, Tensor], images: Tensor, labels: Tensor, batches: int, look: Callable
) -> dict[str, Tensor]:
    """All gradients of a batch at once, squared and summed."""
    names = {f"{name}.weight": weight.detach() for name, weight in weights.items()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            torch.func.functional_call(net, parameters, image[None]), label[None]
        )

    of_images = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in names.items()}
    for _ in range(batches):
        for name, gradients in of_images(names, images, labels).items():
            sums[name] += gradients.square().sum(0)
        look()
    return sums


def by_backpack(
    net: nn.Module, images: Tensor, labels: Tensor, batches: int, look: Callable
) -> dict[str, Tensor]:
    """BackPACK's sum of squared gradients, of a summed loss."""
    net = extend(net, use_converter=True)
    loss_fn = extend(nn.CrossEntropyLoss(reduction="sum"))
    sums: dict[str, Tensor] = {}
    for _ in range(batches):
        with backpack(SumGradSquared()):
            loss_fn(net(images), labels).backward()
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1:
                sums[name] = sums.get(name, 0) + parameter.sum_grad_squared.double()
        net.zero_grad(set_to_none=True)
        look()
    return sums


def by_curvlinops(
    net: nn.Module, weights: list[Tensor], images: Tensor, labels: Tensor, batches: int, look: Callable
) -> Tensor:
    """Sum over the images of `g g'v`, for a random v."""
    loss_fn, total = nn.CrossEntropyLoss(reduction="sum"), 0
    for _ in range(batches):
        operator = EFLinearOperator(net, loss_fn, weights, [(images, labels)], check_deterministic=False)
        torch.manual_seed(0)
        vector = torch.randn(operator.shape[1], dtype=images.dtype, device=images.device)
        total = total + operator @ vector
        look()
    return total


def describe(args: argparse.Namespace, turns: dict[str, dict[str, list[dict]]]) -> dict:
    """The results file."""
    tables = []
    for model, of_model in turns.items():
        seconds = {
            name: statistics.median(turn["seconds"] for turn in found) for name, found in of_model.items()
        }
        memory = {name: max(turn["peak_bytes"] for turn in found) for name, found in of_model.items()}
        rows = [
            [
                name,
                seconds[name],
                seconds[name] / seconds[PLAIN],
                memory[name] / 2**30,
                memory[name] / memory[PLAIN],
            ]
            for name in of_model
        ]
        tables.append(
            {
                "caption": f"{model}, {args.size} pixels, batch {args.batch}",
                "columns": ["pass", "seconds a batch", "times plain", "memory (GiB)", "times plain's"],
                "rows": rows,
            }
        )
    text = f"{args.rounds} turns of {args.steps} batches after the first; medians. {AIMS}"
    return describe_study(
        "python -m benchmarks.bench_fisher", "Fisher information", [text], tables, peers=PEERS
    )


if __name__ == "__main__":
    main()
