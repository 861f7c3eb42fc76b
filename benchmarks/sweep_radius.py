#!/usr/bin/env python
"""How well the finite difference of the Fisher-trace penalty meets the exact gradient, by its radius.

    python -m benchmarks.sweep_radius --output benchmarks/results/radius.json

For the trained street detectors and two small networks, in full precision and at 4 bits, in float32 and
float64: cosine and ratio of norms between the gradients that the two methods give for one image, means over
some images of the training.
"""

import argparse
import contextlib
import copy
import dataclasses
import itertools
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from torch import Tensor, nn
from torch.nn import functional as F

from fisher_detr.data import DetrDatasetMapper, sample_calibration_images
from fisher_detr.engine import (
    FisherTracePenalty,
    PenaltySettings,
    environment,
    load_config,
    load_float,
    prepare,
)
from fisher_detr.engine.objectives import DetrObjective
from fisher_detr.engine.qat import critical_set
from fisher_detr.engine.trace_penalty import BatchLoss
from fisher_detr.files import write_json
from fisher_detr.fisher import PenaltyMethod, SquaredNorm
from fisher_detr.quantization import FakeQuantizer, bypassed, calibrate_activations, calibrate_weights
from fisher_detr.structures import ScaleMethod

ROOT = Path(__file__).resolve().parents[1]
RADII = (0.3, 0.1, 0.05, 0.03, 0.01, 0.003, 1e-3, 1e-4, 1e-5, 1e-6)
BITS, CALIBRATION = 4, 16  # width, images that set the ranges of activations
# Name of a column: precision, and whether the quantizers are in use.
SETTINGS = {
    f"{'4 bits' if quantized else 'full precision'}, {name}": (dtype, quantized)
    for quantized, (name, dtype) in itertools.product(
        (False, True), {"float32": torch.float32, "float64": torch.float64}.items()
    )
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A quantized and calibrated model, samples of its training, and the loss of the penalty."""

    model: nn.Module
    samples: Sequence[Any]
    loss: BatchLoss


class Classifier(nn.Module):
    """Three linear layers; takes a list of points with their classes."""

    def __init__(self, activation: Callable[[Tensor], Tensor], width: int = 64):
        """Args are the activation and the width of the hidden layers."""
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList([nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, batch: list[tuple[Tensor, int]]) -> Tensor:
        """Logits of every point."""
        x = torch.stack([point for point, _ in batch]).to(self.layers[0].weight.dtype)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def cross_entropy(model: Classifier, batch: list[tuple[Tensor, int]]) -> Tensor:
    """Loss of a classifier."""
    return F.cross_entropy(model(batch), torch.tensor([label for _, label in batch]))


def classifier(activation: Callable[[Tensor], Tensor], num_samples: int) -> Problem:
    """A classifier of four overlapping clouds of points, trained until it knows most of them."""
    torch.manual_seed(0)
    centers, labels = torch.randn(4, 16), torch.arange(256) % 4
    points = centers[labels] + 1.5 * torch.randn(256, 16)
    samples = list(zip(points, labels.tolist(), strict=True))
    model = Classifier(activation)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model, samples).backward()
        optimizer.step()
    return quantized(model, samples, cross_entropy, num_samples)


def detector(config: str, num_samples: int) -> Problem:
    """A trained street detector with images of its training."""
    cfg = load_config(str(ROOT / config), ["MODEL.DEVICE", "cpu"])
    drawn = max(num_samples, CALIBRATION)
    records = sample_calibration_images(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]), drawn, seed=0)
    mapper = DetrDatasetMapper(cfg, is_train=False)
    samples = [mapper(record) for record in records]
    loss, options = DetrObjective(critical_set(cfg)), {"skip": cfg.QUANT.SKIP_LAYERS, "fold_norm": True}
    return quantized(load_float(cfg), samples, loss, num_samples, **options)


def quantized(
    model: nn.Module, samples: Sequence[Any], loss: BatchLoss, num_samples: int, **options: Any
) -> Problem:
    """Quantize and calibrate; scales are learned. The problem has the first samples only."""
    prepare(model.eval(), bits=BITS, **options)
    calibrate_weights(model, ScaleMethod.MSE)
    calibrate_activations(model, [[sample] for sample in samples[:CALIBRATION]])
    return Problem(model, samples[:num_samples], loss)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "network of GELU": lambda n: classifier(F.gelu, n),
    "network of ReLU": lambda n: classifier(F.relu, n),
    "DETR": lambda n: detector("configs/street/detr_small_qat.yaml", n),
    "Deformable DETR": lambda n: detector("configs/street/deformable_detr_small_qat.yaml", n),
}


def main() -> None:
    """Parse the command line, measure, write the results file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--images", type=int, default=4, help="of each model's training")
    parser.add_argument("--radii", type=float, nargs="+", default=list(RADII))
    parser.add_argument("--output", help="results file (JSON)")
    args = parser.parse_args()
    tables = [table(name, sweep(PROBLEMS[name](args.images), args.radii), args.radii) for name in args.models]
    if args.output:
        write_json(args.output, describe(tables, args.images))
    print(json.dumps(tables, indent=1))


def sweep(problem: Problem, radii: Sequence[float]) -> dict[str, list[tuple[float, float]]]:
    """Mean cosine and ratio of norms at every radius, by setting."""
    found = {}
    for name, (dtype, quantizes) in SETTINGS.items():
        model = copy.deepcopy(problem.model).to(dtype)
        with contextlib.nullcontext() if quantizes else bypassed(model, FakeQuantizer):
            of_images = [compare(model, problem.loss, sample, radii) for sample in problem.samples]
        found[name] = [
            tuple(map(statistics.mean, zip(*of_radius, strict=True)))
            for of_radius in zip(*of_images, strict=True)
        ]
        print(name, found[name], file=sys.stderr)
    return found


def compare(
    model: nn.Module, loss: BatchLoss, sample: Any, radii: Sequence[float]
) -> list[tuple[float, float]]:
    """Cosine and ratio of norms on one image, for each radius."""

    def gradient(settings: PenaltySettings) -> Tensor:
        return flat(FisherTracePenalty(loss, settings).measure(model, [sample]))

    exact = gradient(PenaltySettings(1.0, PenaltyMethod.EXACT))
    pairs = []
    for radius in radii:
        found = gradient(PenaltySettings(1.0, PenaltyMethod.FINITE_DIFFERENCE, radius=radius))
        # 0 where float32 swallows the step.
        pairs.append((F.cosine_similarity(found, exact, 0).item(), (found.norm() / exact.norm()).item()))
    return pairs


def flat(found: SquaredNorm) -> Tensor:
    """All gradients as one vector in float64."""
    return torch.cat([part.flatten().double() for part in found.gradients])


def table(name: str, found: dict[str, list[tuple[float, float]]], radii: Sequence[float]) -> dict:
    """One row for each radius: cosine / ratio in every setting."""
    rows = [
        [f"{radius:g}", *(f"{of[index][0]:.3f} / {of[index][1]:.3g}" for of in found.values())]
        for index, radius in enumerate(radii)
    ]
    return {
        "caption": f"{name}: cosine / ratio of norms, finite difference to exact",
        "columns": ["radius", *found],
        "rows": rows,
    }


def describe(tables: list[dict], num_images: int) -> dict:
    """The results file."""
    return {
        "title": "Radius of the finite difference of the Fisher-trace penalty",
        "command": "python -m benchmarks.sweep_radius " + shlex.join(sys.argv[1:]),
        "text": [
            f"Means over {num_images} single images; 4 bits: weights of {BITS} bits per "
            "channel, activations of 8, scales by mse and learned (LSQ). The radius is the part of itself by "
            "which the slope alone would raise the loss."
        ],
        "environment": environment(),
        "tables": tables,
    }


if __name__ == "__main__":
    main()
