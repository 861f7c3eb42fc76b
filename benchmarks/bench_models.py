#!/usr/bin/env python
"""Training speed and peak memory of every detector beside transformers', on the same images.

    python -m benchmarks.bench_models --output benchmarks/results/models_cpu.json

A step is forward, losses of all decoder layers, backward, clipping and fused AdamW, on a ResNet-50 whose stem
and first stage are frozen and whose batch norms are frozen throughout. Weights are random. Implementations
take turns, each in a process of its own; its peak memory is the resident one (on a GPU: torch's peak).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import nn

from benchmarks.turns import OPTIONS, ROOT, add_options, peak_bytes, synchronize, take_turns
from fisher_detr.engine import Trainer, load_config
from fisher_detr.files import write_json
from fisher_detr.model_zoo import describe_study

MODELS = {"DETR": "detr_r50", "DAB-DETR": "dab_detr_r50", "Deformable DETR": "deformable_detr_r50"}
OURS, THEIRS = "fisher_detr", "transformers"
PEERS = ("transformers",)
NUM_CLASSES = 80
OBJECTS = 7  # the mean of COCO train2017
CLIP = 0.1


def main() -> None:
    """Parse the command line; measure everything, or one step in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add_options(parser, size=512, batch=2, rounds=3, steps=3)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(*args.only, args)))
        return
    turns = {
        name: take_turns(
            "benchmarks.bench_models", {by: [name, by] for by in (OURS, THEIRS)}, args.rounds, args, OPTIONS
        )
        for name in args.models
    }
    results = describe(args, turns)
    if args.output:
        write_json(args.output, results)
    print(json.dumps(results["tables"], indent=1))


def measure(model: str, implementation: str, args: argparse.Namespace) -> dict[str, float | list[float]]:
    """Seconds of every step, trainable parameters, and peak memory of this process in bytes."""
    torch.manual_seed(0)
    build = our_step if implementation == OURS else their_step
    net, losses = build(MODELS[model], args)
    trainable = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, 1e-4, weight_decay=1e-4, fused=True)
    seconds = []
    for _ in range(1 + args.steps):
        synchronize(args.device)
        start = time.perf_counter()
        losses().backward()
        nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(args.device)
        seconds.append(time.perf_counter() - start)
    count = sum(p.numel() for p in trainable)
    return {"seconds": seconds[1:], "trainable": count, "peak_bytes": peak_bytes(args.device)}


def our_step(name: str, args: argparse.Namespace) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """This project's model of a committed config, and its total loss on the images."""
    model, batch = Trainer.build_model(our_config(name, args)).train(), our_batch(args)
    return model, lambda: sum(model(batch).values())


def our_config(name: str, args: argparse.Namespace) -> CfgNode:
    """The committed config of a model on COCO, without data."""
    return load_config(
        str(ROOT / "configs" / "coco" / f"{name}.yaml"),
        ["MODEL.DETR.NUM_CLASSES", NUM_CLASSES, "DATASETS.TRAIN", (), "DATASETS.TEST", ()]
        + ["MODEL.DEVICE", args.device, "MODEL.WEIGHTS", ""],
    )


def our_batch(args: argparse.Namespace) -> list[dict]:
    """The images as this project's models take them."""
    pixels, classes, boxes = problem(args)
    batch = []
    for image, c, b in zip(pixels, classes, boxes, strict=True):
        instances = Instances((args.size, args.size))
        corners = torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1) * args.size
        instances.gt_boxes, instances.gt_classes = Boxes(corners), c
        batch.append({"image": image, "instances": instances})
    return batch


def their_step(name: str, args: argparse.Namespace) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """Transformers' model with the same settings, and its total loss on the images."""
    model = build_transformers(name).train().to(args.device)
    for key, parameter in model.named_parameters():
        # As in the originals; transformers looks for timm's names and freezes all of another backbone.
        frozen = "backbone" in key and ("embedder" in key or "stages.0" in key)
        parameter.requires_grad_(not frozen)
    pixels, classes, boxes = (x if isinstance(x, list) else x.to(args.device) for x in problem(args))
    mean, std = (torch.tensor(v, device=args.device).view(3, 1, 1) for v in (MEAN, STD))
    labels = [
        {"class_labels": c.to(args.device), "boxes": b.to(args.device)}
        for c, b in zip(classes, boxes, strict=True)
    ]

    def losses() -> torch.Tensor:
        return model(pixel_values=(pixels - mean) / std, labels=labels).loss

    return model, losses


# The originals', which transformers' defaults are not everywhere.
DROPOUT = {
    "detr_r50": {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1},
    "dab_detr_r50": {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
    "deformable_detr_r50": {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1},
}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def problem(args: argparse.Namespace) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Pixels [B, 3, H, W], and for each image classes [N] and boxes [N, 4] (center and size, normalized)."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (args.batch, 3, args.size, args.size), generator=generator).float()
    classes = [torch.randint(0, NUM_CLASSES, (OBJECTS,), generator=generator) for _ in pixels]
    sides = [0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator) for _ in pixels]
    boxes = [torch.cat([s / 2 + (1 - s) * torch.rand(OBJECTS, 2, generator=generator), s], 1) for s in sides]
    return pixels, classes, boxes


def build_transformers(name: str) -> nn.Module:
    """Transformers' detector on a ResNet-50 with random weights and all auxiliary losses."""
    from transformers import (
        DabDetrConfig,
        DabDetrForObjectDetection,
        DeformableDetrConfig,
        DeformableDetrForObjectDetection,
        DetrConfig,
        DetrForObjectDetection,
        ResNetConfig,
    )

    config, model = {
        "detr_r50": (DetrConfig, DetrForObjectDetection),
        "dab_detr_r50": (DabDetrConfig, DabDetrForObjectDetection),
        "deformable_detr_r50": (DeformableDetrConfig, DeformableDetrForObjectDetection),
    }[name]
    stages = ["stage2", "stage3", "stage4"] if config is DeformableDetrConfig else ["stage4"]
    return model(
        config(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=ResNetConfig(out_features=stages),
            num_labels=NUM_CLASSES,
            auxiliary_loss=True,
            **DROPOUT[name],
        )
    )


def describe(args: argparse.Namespace, turns: dict[str, dict[str, list[dict]]]) -> dict:
    """The results file."""
    rows = []
    for model, of_model in turns.items():
        seconds = {
            who: statistics.median(s for turn in found for s in turn["seconds"])
            for who, found in of_model.items()
        }
        memory = {who: max(turn["peak_bytes"] for turn in found) / 2**30 for who, found in of_model.items()}
        parameters = [of_model[who][0]["trainable"] / 1e6 for who in (OURS, THEIRS)]
        rows.append(
            [model, seconds[OURS], seconds[THEIRS], seconds[THEIRS] / seconds[OURS]]
            + [memory[OURS], memory[THEIRS], *parameters]
        )
    table = {
        "caption": "Seconds for a training step, peak memory (GiB), trainable parameters (millions)",
        "columns": ["model", "seconds", "transformers", "times as fast"]
        + ["memory", "transformers' memory", "parameters", "transformers' parameters"],
        "rows": rows,
    }
    text = (
        f"ResNet-50, {args.size} x {args.size}, batch {args.batch}, {OBJECTS} objects an image, "
        f"{args.rounds} turns of {args.steps} steps after one to warm up; medians."
    )
    program = "python -m benchmarks.bench_models"
    return describe_study(program, "Training step beside transformers", [text], [table], peers=PEERS)


if __name__ == "__main__":
    main()
