"""Fisher information and sensitivities of a detector on its calibration images."""

import collections
import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor

from fisher_detr.data import batches_of_one_size
from fisher_detr.engine.fisher_settings import FisherSettings
from fisher_detr.engine.known_parts import KnownParts
from fisher_detr.fisher import (
    CRITICAL,
    OVERALL,
    ErrorFn,
    FisherEstimate,
    GradientMethod,
    HessianTraces,
    LossFn,
    MeasuredChanges,
    PassFile,
    UncaughtWeightError,
    estimate_fisher,
    estimate_hessian_traces,
    estimate_input_moments,
    estimate_sensitivity,
    estimate_traces,
    hawq_sensitivity,
    measure_loss_changes,
)
from fisher_detr.layers import twice_differentiable, without_tf32
from fisher_detr.modeling import DetrBase, LabelSampler, Reweighted
from fisher_detr.modeling.meta_arch.detr_base import Batch
from fisher_detr.structures import CategorySet, LayerInfo, Objective, SensitivityForm, SensitivityTable

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Estimator:
    """Estimates what follows from the gradients of a model's losses; what is asked for twice is kept."""

    def __init__(
        self,
        model: DetrBase,
        samples: Batch,
        weights: Mapping[str, Tensor],
        sets: Mapping[str, CategorySet],
        aux_loss: bool,
        settings: FisherSettings,
        folder: str | None = None,
        overall: Reweighted | None = None,
        set_weights: Mapping[str, float] | None = None,
        biases: Mapping[str, Tensor] | None = None,
        origin: Mapping[str, Any] | None = None,
    ):
        """Build.

        Args:
            model: in eval mode, in full precision.
            samples: calibration images as the mapper makes them, with `instances`.
            weights: of the quantized layers, by layer name.
            sets: critical sets by name; empty: no critical objective.
            aux_loss: whether the losses of the decoder layers before the last count.
            settings: how to estimate.
            folder: where a pass that is cut off leaves what it has; None: nowhere.
            overall: what takes the place of L_A; None: nothing.
            set_weights: how much each critical set counts where they are one; sets that are not named have 1.
            biases: of layers, by layer name, that rounding changes as well.
            origin: what decides the numbers beside the arguments of a call: such a pass goes on only where it
                is the same.
        """
        self.weights = weights
        self.set_weights = dict(set_weights or {})
        self.biases = dict(biases or {})
        self.settings = settings
        self.sets = sets
        sampler = settings.sampler(model)
        self.losses = image_losses(model, sets, aux_loss, overall, sampler)
        self._losses_of_data = image_losses(model, sets, aux_loss, overall) if sampler else self.losses
        self._model = model
        self._moments: dict[tuple, dict[str, Tensor]] = {}
        self._samples = samples
        self._folder = folder
        self._keepers: list[PassFile | KnownParts] = []
        self._origin = {**(origin or {}), "fisher": dataclasses.asdict(settings)}

    @functools.cached_property
    def batches(self) -> list[Batch]:
        """The images in batches of one size: the loss of each is what it is alone."""
        return batches_of_one_size(self._samples, self.settings.batch_size, self.settings.batch_pixels)

    @functools.cached_property
    def fisher(self) -> FisherEstimate:
        """Fisher diagonals of L_A and, with a critical set, of L_F."""
        return self._run("fisher", {}, lambda **keys: estimate_fisher(self.losses, self.weights, **keys))

    @functools.cached_property
    def traces(self) -> dict[str, np.ndarray]:
        """Traces of the Fisher information by image and layer, of every term; see `estimate_traces`."""
        return self._run("traces", {}, lambda **keys: estimate_traces(self.losses, self.weights, **keys))

    def combined(self, objective: Objective) -> dict[str, Tensor]:
        """Fisher diagonal of an objective by layer; of several critical sets the weighted mean."""
        parts = [
            (self.set_weights.get(name, 1.0), part.combined(objective))
            for name, part in self.of_sets(self.fisher).items()
        ]
        total = sum(weight for weight, _ in parts)
        return {layer: sum(weight * part[layer] for weight, part in parts) / total for layer in self.weights}

    def moments(self, objective: Objective) -> dict[str, Tensor]:
        """How errors of one output channel's weights interact, of every layer, by an objective."""
        factors: dict[str, float] = collections.defaultdict(float)
        for name, part in self.of_sets(self.fisher).items():
            for term, factor in objective.factors(part.traces).items():
                term = self._objective(name) if term == CRITICAL else term
                factors[term] += self.set_weights.get(name, 1.0) * factor
        key = tuple(sorted(factors.items()))
        if key not in self._moments:
            self._moments[key] = self._run(
                "moments",
                {"factors": key, "biased": sorted(self.biases)},
                lambda **keys: estimate_input_moments(
                    self.losses, self.weights, factors=factors, biased=self.biases.keys(), **keys
                ),
                by_autograd=False,
            )
        return self._moments[key]

    def of_sets(self, estimate: T) -> dict[str, T]:
        """The part of each critical set; an estimate of one set, or of none, as it is."""
        if len(self.sets) < 2:
            return {next(iter(self.sets), OVERALL): estimate}
        return {name: estimate.of_set(name) for name in self.sets}

    def _objective(self, name: str) -> str:
        return CRITICAL if len(self.sets) < 2 else f"{CRITICAL}:{name}"

    @functools.cached_property
    def hessian(self) -> HessianTraces:
        """Hessian traces of the same losses (HAWQ-V2)."""
        known = self._known_parts("hessian", {})
        with twice_differentiable(), without_tf32():
            return estimate_hessian_traces(
                self.losses,
                self.weights,
                self.sound_batches,
                self.settings.hawq_probes,
                progress=self.settings.progress,
                known=_of_all_ranks(known),
                on_batch=known.add,
            )

    def sensitivity(
        self,
        form: SensitivityForm,
        error: ErrorFn,
        layers: Sequence[LayerInfo],
        widths: Sequence[int],
        meta: Mapping[str, Any],
    ) -> dict[str, SensitivityTable]:
        """Sensitivity of every layer and width to an error, by critical set.

        Args:
            form: of the sensitivity.
            error: quantization error by layer name and width.
            layers: in the order of the table.
            widths: candidate widths in bits.
            meta: where the table comes from, the choice of the scales included.
        """
        if form is SensitivityForm.HAWQ_TRACE:
            return {
                name: hawq_sensitivity(part, self.weights, error, layers, widths, meta)
                for name, part in self.of_sets(self.hessian).items()
            }
        if form is SensitivityForm.MEASURED:
            estimate = self.measure(error, layers, widths, meta)
        else:
            of_arm = {"error": error, "layers": layers, "widths": widths, "form": form}
            estimate = self._run(
                "sensitivity",
                meta,
                lambda **keys: estimate_sensitivity(self.losses, self.weights, **of_arm, **keys),
            )
        return {name: part.table(meta) for name, part in self.of_sets(estimate).items()}

    def measure(
        self, error: ErrorFn, layers: Sequence[LayerInfo], widths: Sequence[int], meta: Mapping[str, Any]
    ) -> MeasuredChanges:
        """What quantizing one layer at a time does to the losses; the ranks share the layers.

        Arguments as for `sensitivity`.
        """
        rank, size = comm.get_rank(), comm.get_world_size()
        known = self._known_parts("measured", meta)
        measure = functools.partial(
            measure_loss_changes,
            self._losses_of_data,
            self.weights,
            self.sound_batches,
            error,
            widths=widths,
            biases=self.biases,
        )
        found = _of_all_ranks(known)
        rest = [layer for layer in layers if layer.name not in found]
        if own := rest[rank::size]:
            measure(layers=own, progress=self.settings.progress, on_layer=known.add)
        return measure(layers=layers, progress=False, known=_of_all_ranks(known))

    def _run(self, name: str, meta: Mapping[str, Any], estimate: Callable, by_autograd: bool = True) -> Any:
        """A pass over the images that goes on where it was cut off; where need be, image by image."""
        keys = {"batches": self.batches, "keeper": self._keeper(name, meta)}
        try:
            return estimate(settings=self.settings.of_pass(), **keys)
        except UncaughtWeightError as error:
            if not by_autograd:
                raise ValueError(
                    f"{error}, and QUANT.WEIGHT.ROUNDING fisher needs the inputs of that layer: set it to "
                    "nearest, or fold the norms (QUANT.FOLD_NORM True)"
                ) from None
            logger.warning("%s: images are differentiated one by one, which takes longer", error)
            single = dataclasses.replace(self.settings, method=GradientMethod.SINGLE)
            return estimate(settings=single.of_pass(), **keys)

    def discard_partial(self) -> None:
        """Remove what passes have written down: what came of them is kept elsewhere."""
        for keeper in self._keepers:
            keeper.remove()

    @functools.cached_property
    def sound_batches(self) -> list[Batch]:
        """The batches without images whose losses are not finite, where those are to be left out."""
        if not self.settings.skip_broken:
            return self.batches
        return [kept for batch in self.batches if (kept := self._sound(batch))]

    @torch.no_grad()
    def _sound(self, batch: Batch) -> Batch:
        finite = torch.stack(list(self._losses_of_data(batch).values())).isfinite().all(dim=0).tolist()
        for sample, is_sound in zip(batch, finite, strict=True):
            if not is_sound:
                logger.warning("a loss of image_id %s is not finite: it is left out", sample["image_id"])
        return [sample for sample, is_sound in zip(batch, finite, strict=True) if is_sound]

    def _keeper(self, name: str, meta: Mapping[str, Any]) -> PassFile | None:
        path = self._path(f"{name}.safetensors")
        if path is None:
            return None
        keeper = PassFile(path, self._digest(meta), self.settings.save_every)
        self._keepers.append(keeper)
        return keeper

    def _known_parts(self, name: str, meta: Mapping[str, Any]) -> KnownParts:
        known = KnownParts(self._path(f"{name}.{comm.get_rank()}.safetensors"), self._digest(meta))
        self._keepers.append(known)
        known.read()
        return known

    def _path(self, name: str) -> str | None:
        return None if self._folder is None else os.path.join(self._folder, f"partial_{name}")

    def _digest(self, meta: Mapping[str, Any]) -> str:
        content = {**self._origin, **meta, "samples": self._samples_digest}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    @functools.cached_property
    def _samples_digest(self) -> str:
        """Of pixels and labels: another size of the images makes other numbers, and other batches."""
        digest = hashlib.sha256()
        for sample in self._samples:
            digest.update(
                str(tuple(sample["image"].shape)).encode() + sample["image"].cpu().numpy().tobytes()
            )
            if "instances" in sample:
                objects = sample["instances"]
                digest.update(objects.gt_boxes.tensor.cpu().numpy().tobytes())
                digest.update(objects.gt_classes.cpu().numpy().tobytes())
        return digest.hexdigest()


def _of_all_ranks(known: KnownParts) -> dict[str, np.ndarray]:
    return {name: values for part in comm.all_gather(known.parts) for name, values in part.items()}


def image_losses(
    model: DetrBase,
    sets: CategorySet | Mapping[str, CategorySet] | None,
    aux_loss: bool = True,
    overall: Reweighted | None = None,
    sampler: LabelSampler | None = None,
) -> LossFn:
    """Losses of the images of a batch, of one forward pass.

    Args:
        model: in eval mode.
        sets: the critical set, or several by name; None or empty: none.
        aux_loss: whether the losses of the decoder layers before the last count.
        overall: what takes the place of L_A; None: nothing.
        sampler: draws the labels; None: those of the data.

    Returns:
        A callable that gives `overall` L_A; of one set `critical`, of several `critical:<name>` L_F.
    """
    of_sets = dict(sets or {}) if not isinstance(sets, CategorySet) else {sets.name: sets}
    critical = {CRITICAL if len(of_sets) == 1 else f"{CRITICAL}:{name}": x for name, x in of_sets.items()}
    chosen = {OVERALL: overall, **critical}

    def losses(batch: Batch) -> dict[str, Tensor]:
        found = model.image_objectives(batch, list(chosen.values()), aux_loss, sampler)
        return dict(zip(chosen, found, strict=True))

    return losses
