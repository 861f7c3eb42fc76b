"""HAWQ-V2's sensitivity (arXiv 1911.03852): the average Hessian trace of a layer times its squared error.

`tr H = E[v'Hv]` for random signs v (Hutchinson). One pair of backward passes gives Hv of all layers at once:
`E[v_l'(Hv)_l] = tr H_ll`, since the signs of two layers are independent.

Legend: K batches, N images, P probes, L layers, W widths.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisher_detr.fisher.gradients import LossFn, check_losses, check_parameters, requiring_grad
from fisher_detr.fisher.measurement import check_finite
from fisher_detr.fisher.ranks import gathered, rank_and_size
from fisher_detr.fisher.sensitivity import ErrorFn, checked_error, select_layers
from fisher_detr.fisher.statistics import of_set, standard_error
from fisher_detr.fisher.trace_penalty import differentiate_again, require_twice_differentiable
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable

_INSTEAD = "take a form of the sensitivity that needs none"


@dataclasses.dataclass(frozen=True)
class HessianTraces:
    """Hutchinson's samples of the Hessian trace of each layer.

    Attributes:
        layers: names of the L layers.
        samples: `v_l'(Hv)_l` by objective, `[K, P, L]` float64, where H is the Hessian of the *sum* of the
            losses of a batch's images.
        batch_sizes: images of each batch, `[K]`; N together.
    """

    layers: tuple[str, ...]
    samples: Mapping[str, np.ndarray]
    batch_sizes: np.ndarray

    @property
    def num_images(self) -> int:
        """N."""
        return int(self.batch_sizes.sum())

    def of_set(self, name: str) -> "HessianTraces":
        """The part of one critical set among several, with the objectives "overall" and "critical"."""
        return dataclasses.replace(self, samples=of_set(self.samples, name))

    @property
    def traces(self) -> dict[str, np.ndarray]:
        """Trace of the Hessian of the *mean* loss over all images by objective, `[L]`; may be negative."""
        return {o: values.mean(axis=1).sum(axis=0) / self.num_images for o, values in self.samples.items()}

    @property
    def standard_errors(self) -> dict[str, np.ndarray]:
        """Standard errors of the traces over images and probes by objective, `[L]`; infinite for one batch.

        From the differences between batches, which have their own images and probes.
        """
        errors = {}
        for objective, trace in self.traces.items():
            residuals = self.samples[objective].mean(axis=1) - self.batch_sizes[:, None] * trace  # [K, L]
            errors[objective] = standard_error(residuals) * len(residuals) / self.num_images
        return errors

    @property
    def probe_errors(self) -> dict[str, np.ndarray]:
        """The part of the standard errors that more probes would remove, `[L]`; infinite for one probe."""
        errors = {}
        for objective, values in self.samples.items():
            of_batches = standard_error(values.swapaxes(0, 1))  # [K, L]
            errors[objective] = np.sqrt(np.square(of_batches).sum(axis=0)) / self.num_images
        return errors


def estimate_hessian_traces(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batches: Iterable[Sequence[Any]],
    num_probes: int = 8,
    seed: int = 0,
    progress: bool = True,
    known: Mapping[str, np.ndarray] | None = None,
    on_batch: Callable[[str, np.ndarray], None] | None = None,
) -> HessianTraces:
    """Estimate the Hessian trace of every layer and objective by differentiating twice.

    Every batch has probes of its own, the same for all objectives. A batch's memory is that of training it
    with the graph of the gradient on top, and one probe. A run that was stopped goes on where it was: keep
    what `on_batch` gets, and give it as `known`. It is for the caller to see that it comes from the same
    weights, batches and probes.

    Args:
        loss_fn: maps a batch to losses by objective, `[B]` each: of every image alone. A model in eval mode,
            of operators that have a second derivative.
        parameters: weights by layer name; leaf tensors, each listed once. Frozen ones take part.
        batches: the images.
        num_probes: P for each batch.
        seed: of the probes; they are drawn on the CPU, and are the same on every device.
        progress: show a progress bar, on a terminal.
        known: samples of batches that need no probing, by the names that `on_batch` has told.
        on_batch: called with a name and the samples `[O, P, L]` of each batch.

    Returns:
        The samples; see `hawq_sensitivity`.

    Raises:
        ValueError: no images or probes, a weight that is no leaf, an operator without a second derivative, a
            loss that depends on no weight, or one that is not finite or of another shape, or whose second
            derivative is not finite.
    """
    check_parameters(parameters)
    if num_probes < 1:
        raise ValueError(f"{num_probes} probes: the Hessian trace needs at least one")
    sampler, batches = _Sampler(parameters, num_probes, seed, on_batch), list(batches)
    sampler.restore(known or {}, [len(batch) for batch in batches])
    rank, size = rank_and_size()
    own = [number for number in range(len(batches)) if number not in sampler.done][rank::size]
    with requiring_grad(parameters, True):
        for number in tqdm(own, desc="Hessian traces", unit="batch", disable=None if progress else True):
            with torch.enable_grad():  # not around the loop: the caller's code runs between batches
                first = sum(map(len, batches[:number]))
                sampler.add(loss_fn(batches[number]), batches[number], number, first)
    return sampler.result()


def hawq_sensitivity(
    estimate: HessianTraces,
    parameters: Mapping[str, Tensor],
    error: ErrorFn,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    meta: Mapping[str, Any] | None = None,
) -> SensitivityTable:
    """Sensitivity `max(tr H_l, 0) / n_l ||d||^2` of every layer and width, for each objective.

    n_l is the number of the layer's weights. A trace below zero, of noise or of a loss that is not at its
    minimum, counts as zero: the layer is taken for flat. The traces that normalise an objective are those.

    Args:
        estimate: the Hessian traces.
        parameters: weights by layer name.
        error: quantization error by layer name and width.
        layers: the layers to allocate bits to, in the order of the table.
        widths: candidate widths in bits, ascending.
        meta: where it comes from.

    Returns:
        The table, in the form HAWQ_TRACE, in units of the loss; no cross term.

    Raises:
        ValueError: a layer without a trace or weight, or an error of another shape.
    """
    order = [estimate.layers.index(name) for name in select_layers(estimate.layers, layers)]
    select_layers(parameters, layers)
    factors = np.zeros((len(layers), len(widths)))  # ||d||^2 / n
    for row, layer in enumerate(layers):
        weight = parameters[layer.name]
        for column, bits in enumerate(widths):
            squared = checked_error(error, layer.name, bits, weight).weight.double().square().sum()
            factors[row, column] = squared.item() / weight.numel()
    traces = {objective: trace[order].clip(min=0.0) for objective, trace in estimate.traces.items()}
    known = estimate.standard_errors if len(estimate.batch_sizes) > 1 else {}
    return SensitivityTable(
        layers=tuple(layers),
        widths=tuple(widths),
        terms={objective: trace[:, None] * factors for objective, trace in traces.items()},
        traces=traces,
        form=SensitivityForm.HAWQ_TRACE,
        standard_errors={objective: e[order, None] * factors for objective, e in known.items()},
        meta={
            **(meta or {}),
            "num_images": estimate.num_images,
            "num_probes": next(iter(estimate.samples.values())).shape[1],
        },
    )


class _Sampler:
    """Collects `v_l'(Hv)_l`, batch by batch, of the batches that the ranks share."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        num_probes: int,
        seed: int,
        on_batch: Callable[[str, np.ndarray], None] | None,
    ):
        self._parameters, self._num_probes, self._seed = parameters, num_probes, seed
        self._on_batch = on_batch
        self._objectives: tuple[str, ...] = ()
        self._found: dict[int, tuple[int, list[np.ndarray]]] = {}  # by batch: images, samples of objectives
        self._checked: set[str] = set()  # objectives that depend on weights

    @property
    def done(self) -> Collection[int]:
        """Numbers of the batches that are done."""
        return self._found.keys()

    def restore(self, known: Mapping[str, np.ndarray], sizes: Sequence[int]) -> None:
        """Take what is known of batches; their images by number."""
        for name, samples in known.items():
            number, *objectives = json.loads(name)
            self._objectives = tuple(objectives)
            self._found[number] = sizes[number], list(samples)
            self._checked |= {name for name, values in zip(objectives, samples, strict=True) if values.any()}

    def add(self, losses: Mapping[str, Tensor], batch: Sequence[Any], number: int, first: int) -> None:
        """Take the losses of a batch, `[B]` by objective; its number, and that of its first image."""
        num_images = len(batch)
        check_losses(losses, num_images)
        if self._objectives and tuple(losses) != self._objectives:
            raise ValueError(
                f"image {first} has objectives {list(losses)}, expected {list(self._objectives)}: the same "
                "on every image"
            )
        self._objectives = tuple(losses)
        values = torch.stack([loss.detach() for loss in losses.values()]).double()
        check_finite(values.cpu().numpy(), self._objectives, batch, first)
        samples = []
        for objective, values in losses.items():
            products = self._probe(objective, values.sum(), number)
            if broken := np.flatnonzero(~np.isfinite(products).all(axis=0)).tolist():
                raise ValueError(
                    f"second derivative of loss {objective!r} on images {first} to {first + num_images - 1} "
                    f"is not finite in layer {list(self._parameters)[broken[0]]!r}: check the images, their "
                    "labels and the checkpoint"
                )
            samples.append(products)
        self._found[number] = num_images, samples
        if self._on_batch:
            self._on_batch(json.dumps([number, *self._objectives]), np.stack(samples))

    def result(self) -> HessianTraces:
        """Of all batches together."""
        parts = gathered((self._objectives, self._checked, self._found))
        found = dict(sorted(pair for *_, of_rank in parts for pair in of_rank.items()))
        if not found:
            raise ValueError("no images: the Hessian trace needs at least one")
        objectives = next(names for names, *_ in parts if names)
        if constant := sorted(set(objectives) - set().union(*(checked for _, checked, _ in parts))):
            hint = "they were computed under torch.no_grad() or depend on no weight"
            raise ValueError(f"losses {constant} have no gradient on any image: {hint}")
        sizes, samples = zip(*found.values(), strict=True)
        stacked = dict(zip(objectives, np.stack(samples, axis=1), strict=True))  # [O, K, P, L]
        return HessianTraces(tuple(self._parameters), stacked, np.array(sizes))

    def _probe(self, objective: str, loss: Tensor, number: int) -> np.ndarray:
        """Samples of one batch, `[P, L]`."""
        weights = list(self._parameters.values())
        if not loss.requires_grad:  # a constant, such as the loss of nothing
            return np.zeros((self._num_probes, len(weights)))
        if objective not in self._checked:
            require_twice_differentiable(loss, weights, _INSTEAD)
            self._checked.add(objective)
        gradient = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        generator = self._generator(number)
        rows = []
        for _ in range(self._num_probes):
            signs = [_random_signs(weight, generator) for weight in weights]
            products = differentiate_again(gradient, weights, signs, retain_graph=True, instead=_INSTEAD)
            rows.append([_product(v, p) for v, p in zip(signs, products, strict=True)])
        return torch.stack([torch.stack(row) for row in rows]).cpu().numpy()

    def _generator(self, number: int) -> torch.Generator:
        """Of the probes of a batch: the same for all objectives, on any rank."""
        state = np.random.SeedSequence((self._seed, number)).generate_state(1)
        return torch.Generator().manual_seed(int(state[0]))


def _product(signs: Tensor, found: Tensor | None) -> Tensor:
    """Zero for a weight that no second derivative depends on."""
    return (
        signs.new_zeros((), dtype=torch.float64)
        if found is None
        else torch.sum(signs * found, dtype=torch.float64)
    )


def _random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Rademacher variables."""
    return torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8).to(like).mul_(2).sub_(1)
