"""The loss landscape of detectors, in full precision and quantized, on the same images and directions."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor
from tqdm.auto import tqdm

from fisher_detr.data import DetrDatasetMapper, batches_of_one_size, sample_calibration_images
from fisher_detr.engine.commands import load_float, load_quantized
from fisher_detr.engine.critical_sets import target_set
from fisher_detr.engine.estimation import image_losses
from fisher_detr.engine.evaluation_record import provenance
from fisher_detr.engine.insertion import float_model_for_quantization
from fisher_detr.engine.qat import is_quantized
from fisher_detr.fisher import DisplacedLosses, Landscape, displaced, evaluate_losses, explore
from fisher_detr.modeling import DetrBase
from fisher_detr.modeling.meta_arch.detr_base import Batch
from fisher_detr.quantization import held_weights, quantizable_layers, quantized_layers


@dataclasses.dataclass(frozen=True)
class LandscapeSettings:
    """How far and how finely to look.

    Attributes:
        num_images: of the first data set of DATASETS.TEST.
        radius: largest step, in parts of a channel's norm.
        points: steps to each side of a line.
        directions: lines.
        plane_points: steps to each side of the plane; 0: no plane.
        seed: of the images and of the first direction.
    """

    num_images: int = 64
    radius: float = 0.2
    points: int = 8
    directions: int = 3
    plane_points: int = 5
    seed: int = 0


def measure_landscape(models: Mapping[str, CfgNode], settings: LandscapeSettings) -> dict[str, Any]:
    """Mean overall and critical loss around the weights of several models.

    Args:
        models: configs by name, each with the checkpoint in MODEL.WEIGHTS; images, critical set and losses
            are those of the first.
        settings: where to look.

    Returns:
        Plain JSON: `data_set`, `num_images`, `critical_set`, and by model `weights`, `steps` `[R]`, `lines`
        (loss by objective, `[D][R]`), `plane_steps` `[S]`, `planes` (`[S][S]`), and `sharpness` by objective:
        `step`, `rise` and `standard_error` over the images, `[R // 2]` each.
    """
    cfg = next(iter(models.values()))
    images, found, shapes = _images(cfg, settings), [], {}
    for name, of_model in models.items():
        landscape, of_weights = _explore(of_model, cfg, images, settings)
        if of_weights != (shapes := shapes or of_weights):
            raise ValueError(
                f"model {name!r} has other layers than the first, and would move in other directions: "
                "compare models of one architecture with the same QUANT.SKIP_LAYERS"
            )
        found.append({"name": name, "weights": of_model.MODEL.WEIGHTS, **_described(landscape)})
    return {
        "data_set": cfg.DATASETS.TEST[0],
        "num_images": len(images),
        "critical_set": cfg.CRITICAL.TARGET,
        "settings": dataclasses.asdict(settings),
        "models": found,
        "provenance": provenance(cfg),
    }


def _images(cfg: CfgNode, settings: LandscapeSettings) -> Batch:
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    mapper = DetrDatasetMapper(cfg, is_train=False)
    chosen = sample_calibration_images(records, min(settings.num_images, len(records)), settings.seed)
    return [mapper(record) for record in chosen]


def _explore(
    cfg: CfgNode, first: CfgNode, images: Batch, settings: LandscapeSettings
) -> tuple[Landscape, dict[str, tuple[int, ...]]]:
    """The landscape by the losses of the first config, and the shapes of what was displaced."""
    model = load_quantized(cfg) if is_quantized(cfg.MODEL.WEIGHTS) else load_float(cfg)
    seeds = range(settings.seed, settings.seed + settings.directions)
    with contextlib.ExitStack() as stack:
        tensors, weights = stack.enter_context(_multiplied(cfg, model))
        losses = stack.enter_context(_losses(first, model, images, tensors))
        landscape = explore(
            losses,
            weights,
            settings.radius * np.arange(1, settings.points + 1) / settings.points,
            seeds,
            settings.radius * np.arange(1, settings.plane_points + 1) / max(settings.plane_points, 1),
        )
        return landscape, {name: tuple(weight.shape) for name, weight in weights.items()}


@contextlib.contextmanager
def _multiplied(cfg: CfgNode, model: DetrBase) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """What may be displaced, and the weights that are multiplied, by layer name."""
    if quantized := quantized_layers(model):
        with torch.no_grad(), held_weights(quantized) as held:
            yield held.leaves, {name: leaf.detach().clone() for name, leaf in held.leaves.items()}
        return
    float_model_for_quantization(model, cfg.QUANT.FOLD_NORM)  # the same weights as the quantized one
    weights = {name: x.weight for name, x in quantizable_layers(model, cfg.QUANT.SKIP_LAYERS).items()}
    yield weights, {name: weight.detach().clone() for name, weight in weights.items()}


@contextlib.contextmanager
def _losses(
    cfg: CfgNode, model: DetrBase, images: Batch, tensors: Mapping[str, Tensor]
) -> Iterator[DisplacedLosses]:
    of_batch = image_losses(model.eval(), target_set(cfg, "TEST"), cfg.ALLOCATION.AUX_LOSS)
    batches = batches_of_one_size(images, cfg.FISHER.BATCH_SIZE, cfg.FISHER.BATCH_PIXELS)
    with tqdm(desc="Loss landscape", disable=None) as bar, torch.no_grad():

        def losses(displacement: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
            with displaced(tensors, displacement):
                bar.update()
                return evaluate_losses(of_batch, batches)

        yield losses


def _described(found: Landscape) -> dict[str, Any]:
    sharpness = {}
    for objective in found.lines:
        rise, error = found.sharpness(objective)
        steps = found.steps[len(found.steps) // 2 + 1 :]
        columns = {"step": steps, "rise": rise, "standard_error": np.where(np.isfinite(error), error, 0.0)}
        sharpness[objective] = {name: values.tolist() for name, values in columns.items()}
    return {
        "steps": found.steps.tolist(),
        "lines": {name: values.tolist() for name, values in found.lines.items()},
        "plane_steps": found.plane_steps.tolist(),
        "planes": {name: values.tolist() for name, values in found.planes.items()},
        "sharpness": sharpness,
    }
