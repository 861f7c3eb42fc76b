#!/usr/bin/env python
"""How well the finite difference of the Fisher-trace penalty meets the exact gradient, by its radius.

    python -m benchmarks.sweep_radius --output benchmarks/results/radius.json

For the trained street detectors and two small networks, in full precision and at 4 bits, in float32 and
float64: cosine and ratio of norms between the gradients that the two methods give on images of the training.
In the last column the second pass does not repeat which units of ReLUs are off and where maxima are.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.data import DatasetCatalog
from torch import Tensor, nn
from torch.nn import functional as F

from fisher_detr.data import DetrDatasetMapper, sample_calibration_images
from fisher_detr.engine import (
    FisherTracePenalty,
    PenaltySettings,
    load_config,
    load_float,
    prepare,
    repeatable_loss,
)
from fisher_detr.engine.critical_sets import target_set
from fisher_detr.engine.objectives import DetrObjective
from fisher_detr.engine.repeatable_loss import BatchLoss
from fisher_detr.files import write_json
from fisher_detr.fisher import PenaltyMethod, SquaredNorm
from fisher_detr.model_zoo import describe_study
from fisher_detr.quantization import FakeQuantizer, bypassed, calibrate_activations, calibrate_weights
from fisher_detr.structures import ScaleMethod

ROOT = Path(__file__).resolve().parents[1]
RADII = (0.3, 0.1, 0.05, 0.03, 0.01, 0.003, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
BITS, CALIBRATION = 4, 16  # width, images that set the ranges of activations


@dataclasses.dataclass(frozen=True)
class Setting:
    """A column: precision, whether the quantizers are in use, and whether units of ReLUs stay off."""

    dtype: torch.dtype
    quantized: bool
    repeats: bool = True

    @property
    def name(self) -> str:
        """For the head of the column."""
        parts = [
            f"{BITS} bits" if self.quantized else "full precision",
            str(self.dtype).removeprefix("torch."),
        ]
        return ", ".join(parts + ["units free"] * (not self.repeats))


SETTINGS = [
    Setting(dtype, quantized) for quantized in (False, True) for dtype in (torch.float32, torch.float64)
]
SETTINGS.append(Setting(torch.float32, True, repeats=False))


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
    loss, options = DetrObjective(target_set(cfg)), {"skip": cfg.QUANT.SKIP_LAYERS, "fold_norm": True}
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
    "DAB-DETR": lambda n: detector("configs/street/dab_detr_small_qat.yaml", n),
    "Deformable DETR": lambda n: detector("configs/street/deformable_detr_small_qat.yaml", n),
}


def main() -> None:
    """Parse the command line, measure, write the results file and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--images", type=int, default=8, help="of each model's training")
    parser.add_argument("--radii", type=float, nargs="+", default=list(RADII))
    parser.add_argument("--output", help="results file (JSON)")
    args = parser.parse_args()
    tables = [table(name, sweep(PROBLEMS[name](args.images), args.radii), args.radii) for name in args.models]
    if args.output:
        write_json(args.output, describe(tables, args.images))
    print(json.dumps(tables, indent=1))


def sweep(problem: Problem, radii: Sequence[float]) -> dict[str, Tensor]:
    """By setting `[radii, 3]`: cosine of an image, of the mean gradient, ratio of norms of an image."""
    found = {}
    for setting in SETTINGS:
        model = copy.deepcopy(problem.model).to(setting.dtype)
        with contextlib.ExitStack() as stack:
            if not setting.quantized:
                stack.enter_context(bypassed(model, FakeQuantizer))
            if not setting.repeats:
                stack.enter_context(mock.patch.object(repeatable_loss, "repeating_choices", free_choices))
            found[setting.name] = compare(model, problem, radii)
        print(setting.name, found[setting.name], file=sys.stderr)
    return found


def free_choices(*_: object) -> contextlib.nullcontext:
    """In place of `repeating_choices`: every pass decides anew."""
    return contextlib.nullcontext(lambda: None)


def compare(model: nn.Module, problem: Problem, radii: Sequence[float]) -> Tensor:
    """One row of `sweep` for each radius."""
    settings = [PenaltySettings(1.0, PenaltyMethod.EXACT)]
    settings += [PenaltySettings(1.0, PenaltyMethod.FINITE_DIFFERENCE, radius=radius) for radius in radii]
    total, of_images = 0, []
    for sample in problem.samples:
        gradients = torch.stack(
            [flat(FisherTracePenalty(problem.loss, one).measure(model, [sample])) for one in settings]
        )
        of_images.append(torch.stack([cosines(gradients), ratios(gradients)], dim=1))
        total = total + gradients
    cosine, ratio = torch.stack(of_images).mean(0).unbind(1)
    return torch.stack([cosine, cosines(total), ratio], dim=1)


def flat(found: SquaredNorm) -> Tensor:
    """All gradients as one vector in float64."""
    return torch.cat([part.flatten().double() for part in found.gradients])


def cosines(gradients: Tensor) -> Tensor:
    """Of every row but the first with the first; 0 where float32 swallows the step."""
    return F.cosine_similarity(gradients[1:], gradients[:1])


def ratios(gradients: Tensor) -> Tensor:
    """Norm of every row but the first over that of the first."""
    return gradients[1:].norm(dim=1) / gradients[0].norm()


def table(name: str, found: dict[str, Tensor], radii: Sequence[float]) -> dict:
    """One row for each radius."""
    rows = [
        [f"{radius:g}", *("{:.2f}, {:.2f}, {:.3g}".format(*of[index].tolist()) for of in found.values())]
        for index, radius in enumerate(radii)
    ]
    return {
        "caption": f"{name}, finite difference against exact: cosine of one image, cosine of the mean over "
        "the images, ratio of norms",
        "columns": ["radius", *found],
        "rows": rows,
    }


def describe(tables: list[dict], num_images: int) -> dict:
    """The results file."""
    text = (
        f"Of {num_images} images. {BITS} bits: of weights, per channel; activations of 8, scales by mse and "
        "learned (LSQ). The radius is the part of itself by which the slope alone would raise the loss. "
        "Units free: the second pass does not repeat the choices of ReLUs, PReLUs and max pooling."
    )
    title = "Radius of the finite difference of the Fisher-trace penalty"
    return describe_study("python -m benchmarks.sweep_radius", title, [text], tables)


if __name__ == "__main__":
    main()
