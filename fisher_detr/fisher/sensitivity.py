"""Sensitivity: the Fisher information on the actual quantization errors of every layer and width."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fisher_detr.fisher.diagonal import image_traces
from fisher_detr.fisher.gradients import GradientMethod, LossFn
from fisher_detr.fisher.image_pass import ImagePass, PassKeeper, PassSettings
from fisher_detr.fisher.image_sums import ErrorRows
from fisher_detr.fisher.statistics import of_set, standard_error, term_pairs
from fisher_detr.structures import LayerInfo, SensitivityForm, SensitivityTable


@dataclasses.dataclass(frozen=True)
class LayerError:
    """What quantization adds to a layer.

    Attributes:
        weight: `Q_b(w) - w`, of the shape of its weight.
        bias: to its bias, `[C]`; None: nothing.
    """

    weight: Tensor
    bias: Tensor | None = None


# Quantization error of a layer at a width in bits; a tensor: of its weight alone.
ErrorFn = Callable[[str, int], LayerError | Tensor]


@dataclasses.dataclass(frozen=True)
class SensitivityEstimate:
    """What one pass over N images leaves for L layers and W widths: a few numbers for each image.

    Everything else follows: quadratic forms, linear terms, standard errors, split halves.

    Attributes:
        layers: the L layers.
        widths: the W widths in bits.
        form: BLOCK `(g'd)^2` or DIAGONAL `sum_i g_i^2 d_i^2`.
        image_terms: the form on each image by term, `[N, L, W]` float64.
        image_linear: `g'd` by objective, `[N, L, W]` float64; empty in the diagonal form.
        image_traces: inner product of each image's two gradients by term, `[N, L]` float64.
        positions: of the N images among those that were given.
    """

    layers: tuple[LayerInfo, ...]
    widths: tuple[int, ...]
    form: SensitivityForm
    image_terms: Mapping[str, np.ndarray]
    image_linear: Mapping[str, np.ndarray]
    image_traces: Mapping[str, np.ndarray]
    positions: tuple[int, ...] = ()

    def of_set(self, name: str) -> "SensitivityEstimate":
        """The part of one critical set among several, with the terms "cross" and "critical"."""
        fields = ("image_terms", "image_linear", "image_traces")
        parts = {field: of_set(getattr(self, field), name) for field in fields if getattr(self, field)}
        return dataclasses.replace(self, **parts)

    def table(self, meta: Mapping[str, Any] | None = None) -> SensitivityTable:
        """Sensitivity of every layer and width, with standard errors, and `E[g]'d` in the block form."""
        num_images = len(next(iter(self.image_terms.values())))
        errors = {term: standard_error(values) for term, values in self.image_terms.items()}
        return SensitivityTable(
            layers=self.layers,
            widths=self.widths,
            terms={term: values.mean(axis=0) for term, values in self.image_terms.items()},
            traces={term: values.mean(axis=0) for term, values in self.image_traces.items()},
            form=self.form,
            standard_errors=errors if num_images > 1 else {},
            linear={objective: values.mean(axis=0) for objective, values in self.image_linear.items()},
            meta={**(meta or {}), "num_images": num_images},
        )


def estimate_sensitivity(
    loss_fn: LossFn,
    parameters: Mapping[str, Tensor],
    batches: Sequence[Sequence[Any]],
    error: ErrorFn,
    layers: Sequence[LayerInfo],
    widths: Sequence[int],
    form: SensitivityForm = SensitivityForm.BLOCK,
    settings: PassSettings | None = None,
    keeper: PassKeeper | None = None,
) -> SensitivityEstimate:
    """Put every image's gradients on the quantization errors of all layers and widths.

    The errors of all widths are held at once in the model's precision (7 widths of DETR-R50 in float32:
    1.1 GB), of the gradients those of one layer and image. Products are summed in the model's precision.

    Args:
        loss_fn: maps a batch to losses by objective, one of each image (see `image_gradients`).
        parameters: weights by layer name, one for every layer.
        batches: the images; in a batch of one size, or padded so that losses stay as alone.
        error: quantization error by layer name and width, called once for each. What it adds to biases
            counts in the form BLOCK alone.
        layers: the layers to allocate bits to, in the order of the table.
        widths: candidate widths in bits, ascending.
        form: BLOCK or DIAGONAL (method.md section 3).
        settings: how images are differentiated, and when to stop.
        keeper: lets a run that was cut off go on.

    Returns:
        The estimate; `.table(meta)` is its SensitivityTable.

    Raises:
        ValueError: no images, an error of another shape, one that adds to biases with the method single, an
            aliased weight, or a loss or gradient that is not finite.
    """
    weights = {name: parameters[name] for name in select_layers(parameters, layers)}
    errors, shifts = _stack_errors(weights, error, widths)
    if shifts and settings and settings.method is GradientMethod.SINGLE:
        raise ValueError(
            "the errors add to biases, whose gradients the method single does not give: take batched"
        )
    rows = ErrorRows(errors, shifts, diagonal=form is SensitivityForm.DIAGONAL)
    image_pass = ImagePass(loss_fn, weights, [rows], settings)
    image_pass.run(batches, keeper and keeper(image_pass))
    terms, linear = _sorted(rows.rows.cpu().numpy(), image_pass.objectives, form)
    return SensitivityEstimate(
        tuple(layers),
        tuple(widths),
        form,
        terms,
        linear,
        image_traces(image_pass),
        tuple(image_pass.positions),
    )


def checked_error(error: ErrorFn, name: str, bits: int, like: Tensor) -> LayerError:
    """Quantization error of a layer; ValueError unless it fits a weight."""
    found = error(name, bits)
    found = LayerError(found) if isinstance(found, Tensor) else found
    parts = [("error", found.weight, like.shape)]
    if found.bias is not None:
        parts.append(("shift of the bias", found.bias, like.shape[:1]))
    for what, values, shape in parts:
        if values.shape != shape:
            raise ValueError(
                f"{what} of layer {name!r} at {bits} bits has shape {tuple(values.shape)}, "
                f"expected {tuple(shape)}"
            )
    return LayerError(*(values.detach().to(like) for _, values, _ in parts))


def select_layers(known: Iterable[str], layers: Sequence[LayerInfo]) -> list[str]:
    """Names of the layers; ValueError where one is not among the known ones."""
    names = [layer.name for layer in layers]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"layers {unknown[:5]} have no weights among the named parameters: list theirs too")
    return names


def _sorted(
    rows: np.ndarray, objectives: Sequence[str], form: SensitivityForm
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Terms and linear terms, `[N, L, W]` each, of what `ErrorRows` keeps."""
    kinds = np.moveaxis(rows, 2, 0)  # [T or O, N, L, W]
    pairs = term_pairs(objectives)
    if form is SensitivityForm.DIAGONAL:
        return dict(zip(pairs, kinds, strict=True)), {}
    linear = dict(zip(objectives, kinds, strict=True))
    return {term: linear[a] * linear[b] for term, (a, b) in pairs.items()}, linear


def _stack_errors(
    weights: Mapping[str, Tensor], error: ErrorFn, widths: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Errors of the weights, `[W, numel]`, and shifts of the biases, `[W, C]`, where there are any."""
    errors, shifts = {}, {}
    for name, weight in weights.items():
        found = [checked_error(error, name, bits, weight) for bits in widths]
        errors[name] = torch.stack([part.weight.flatten() for part in found])
        if any(part.bias is not None for part in found):
            nothing = weight.detach().new_zeros(len(weight))
            shifts[name] = torch.stack([nothing if part.bias is None else part.bias for part in found])
    return errors, shifts
