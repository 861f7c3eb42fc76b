"""Sensitivity by measurement: quantize one layer at a time and look at the losses.

The yardstick for every prediction, and the dearest: L W + 1 passes over the images, forward only.

Legend: N images, L layers, W widths, O objectives.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisher_detr.fisher.gradients import LossFn, check_losses, check_parameters
from fisher_detr.fisher.image_pass import describe
from fisher_detr.fisher.sensitivity import ErrorFn, LayerError, checked_error, select_layers
from fisher_detr.fisher.statistics import of_set, standard_error
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable, check_layers, check_widths


@dataclasses.dataclass(frozen=True)
class MeasuredChanges:
    """By how much every image's losses change when one layer alone is quantized.

    Attributes:
        layers: the L layers.
        widths: the W widths in bits.
        changes: loss with the layer quantized minus loss without, by objective, `[N, L, W]` float64.
        start: losses with nothing quantized, by objective, `[N]` float64.
    """

    layers: tuple[LayerInfo, ...]
    widths: tuple[int, ...]
    changes: Mapping[str, np.ndarray]
    start: Mapping[str, np.ndarray]

    @property
    def num_images(self) -> int:
        """N."""
        return len(next(iter(self.start.values())))

    @property
    def means(self) -> dict[str, np.ndarray]:
        """Mean change by objective, `[L, W]`; negative where the loss fell."""
        return {objective: values.mean(axis=0) for objective, values in self.changes.items()}

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """Standard errors of the means over images by objective, `[L, W]`; infinite for one image."""
        return {objective: standard_error(values) for objective, values in self.changes.items()}

    def of_set(self, name: str) -> "MeasuredChanges":
        """The part of one critical set among several, with the objectives "overall" and "critical"."""
        return dataclasses.replace(self, changes=of_set(self.changes, name), start=of_set(self.start, name))

    def table(self, meta: Mapping[str, Any] | None = None) -> SensitivityTable:
        """The mean changes as costs of an allocation, in units of the loss.

        Negative means cost 0. Rounding hardly improves a trained model, so they are noise, or small beside
        it. As negative costs they would draw the bits by their noise, and be deducted from the damage of
        other layers. `meta["num_negative"]` counts them.

        Each objective's own changes take the place of the Fisher trace: a layer's "trace" is the mean of its
        costs over the widths. L_A and L_F differ in scale, and `sum_of_normalized` thus counts either as a
        part of what quantization does to it: an objective's costs over all layers add up to its weight, on
        average over the widths. (The loss itself would be no such unit: much of it is there whatever the
        weights.) Changes of a weighted sum of losses are the sum of the changes, so there is no cross term,
        and `square_of_sum` has no meaning for two objectives.
        """
        costs = {objective: mean.clip(min=0.0) for objective, mean in self.means.items()}
        negative = {objective: int((mean < 0.0).sum()) for objective, mean in self.means.items()}
        return SensitivityTable(
            layers=self.layers,
            widths=self.widths,
            terms=costs,
            traces={objective: cost.mean(axis=1) for objective, cost in costs.items()},
            form=SensitivityForm.MEASURED,
            standard_errors=self.standard_errors if self.num_images > 1 else {},
            meta={**(meta or {}), "num_images": self.num_images, "num_negative": negative},
        )


def measure_loss_changes(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batches: Iterable[Sequence[Any]],
    error: ErrorFn,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    progress: bool = True,
    known: Mapping[str, np.ndarray] | None = None,
    on_layer: Callable[[str, np.ndarray], None] | None = None,
    biases: Mapping[str, Tensor] | None = None,
) -> MeasuredChanges:
    """Quantize one layer at a time, in place, and measure every image's losses.

    The weight becomes `w + error` in its own precision, a bias too, and is bitwise what it was afterwards,
    also when something raises. A run that was stopped goes on where it was: keep what `on_layer` gets, and
    give it as `known`. It is for the caller to see that it comes from the same weights, errors and images.

    Args:
        loss_fn: maps a batch to losses by objective, `[B]` each: of every image alone; the same objectives on
            every batch. A model in eval mode.
        parameters: weights by layer name, one for every layer; leaf tensors.
        batches: the images, all kept in memory.
        error: quantization error by layer name and width.
        layers: the layers to measure, in the order of the result.
        widths: widths in bits, ascending.
        progress: show a progress bar, on a terminal.
        known: changes of layers that need no measuring, `[O, N, W]` each, objectives in the order of
            `loss_fn`; other layers are ignored.
        on_layer: called with the name and the changes of each layer that was measured.
        biases: by layer name, where the error adds to them.

    Returns:
        The changes of all layers.

    Raises:
        ValueError: no images, an aliased weight, an error or known changes of another shape, or a loss that
            is not finite or of another shape.
    """
    check_layers(layers)
    check_widths(widths)
    weights = {name: parameters[name] for name in select_layers(parameters, layers)}
    check_parameters(weights)
    batches = list(batches)
    before = evaluate_losses(loss_fn, batches)
    start = np.stack(list(before.values()))  # [O, N]
    found = _checked_known(known or {}, list(weights), (*start.shape, len(widths)))
    rest = [name for name in weights if name not in found]
    with _bar(len(rest) * len(widths), progress) as bar:
        for name in rest:
            columns = []
            for bits in widths:
                parts = _perturbations(name, checked_error(error, name, bits, weights[name]), weights, biases)
                with contextlib.ExitStack() as stack:
                    for tensor, added in parts:
                        stack.enter_context(perturbed(tensor, added))
                    losses = evaluate_losses(
                        loss_fn, batches, f" with layer {name!r} at {bits} bits", tuple(before)
                    )
                columns.append(np.stack(list(losses.values())) - start)
                bar.update()
            found[name] = np.stack(columns, axis=-1)  # [O, N, W]
            if on_layer:
                on_layer(name, found[name])
    changes = np.stack([found[name] for name in weights], axis=2)  # [O, N, L, W]
    return MeasuredChanges(tuple(layers), tuple(widths), dict(zip(before, changes, strict=True)), before)


@torch.no_grad()
def evaluate_losses(
    loss_fn: LossFn,
    batches: Sequence[Sequence[Any]],
    where: str = "",
    objectives: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """Losses of all images, without gradients.

    Args:
        loss_fn: see `measure_loss_changes`.
        batches: the images.
        where: goes into messages.
        objectives: what is expected; empty: those of the first batch.

    Returns:
        `[N]` float64 by objective.

    Raises:
        ValueError: no images, other objectives, or a loss that is not finite or of another shape.
    """
    rows, position = [], 0
    for batch in batches:
        losses = loss_fn(batch)
        check_losses(losses, len(batch))
        objectives = objectives or tuple(losses)
        if tuple(losses) != objectives:
            raise ValueError(
                f"{describe(position, batch[0])}{where} has objectives {list(losses)}, expected "
                f"{list(objectives)}: the same on every image"
            )
        rows.append(np.stack([loss.detach().cpu().double().numpy() for loss in losses.values()]))  # [O, B]
        check_finite(rows[-1], objectives, batch, position, where)
        position += len(batch)
    if not position:
        raise ValueError("no images: the losses need at least one")
    return dict(zip(objectives, np.concatenate(rows, axis=1), strict=True))


@contextlib.contextmanager
def perturbed(weight: Tensor, error: Tensor) -> Iterator[None]:
    """Within, a weight is `w + error`; afterwards it is bitwise what it was."""
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.add_(error.to(weight))
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


def _perturbations(
    name: str, error: LayerError, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor] | None
) -> list[tuple[Tensor, Tensor]]:
    """What is added to what."""
    if error.bias is None:
        return [(weights[name], error.weight)]
    if name not in (biases or {}):
        raise ValueError(f"the error of layer {name!r} adds to its bias: name it in biases")
    return [(weights[name], error.weight), (biases[name], error.bias)]


def check_finite(
    rows: np.ndarray, objectives: Sequence[str], batch: Sequence[Any], position: int, where: str = ""
) -> None:
    """Raise ValueError that names the image of a loss that is not finite.

    Args:
        rows: losses of the batch, `[O, B]`.
        objectives: their O names.
        batch: its B samples.
        position: of the first among all images.
        where: the width that they were measured at, in words; "": in full precision.
    """
    for objective, image in np.argwhere(~np.isfinite(rows)):
        what = f"loss {objectives[objective]!r} of {describe(position + image, batch[image])}{where}"
        hint = "leave that width out" if where else "check the image, its labels and the checkpoint"
        raise ValueError(f"{what} is {rows[objective, image]}: {hint}")


def _checked_known(
    known: Mapping[str, np.ndarray], names: Sequence[str], shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    found = {name: np.asarray(known[name], dtype=np.float64) for name in names if name in known}
    for name, changes in found.items():
        if changes.shape != shape:
            raise ValueError(
                f"the known changes of layer {name!r} have shape {changes.shape}, expected {shape} of "
                "objectives, images and widths: they are of another run, leave them out"
            )
    return found


def _bar(total: int, progress: bool) -> tqdm:
    return tqdm(total=total, desc="Measured changes", unit="width", disable=None if progress else True)
