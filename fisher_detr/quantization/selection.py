"""Which weights of a model can be quantized, under which name, and why the others cannot.

Names, order and grouping are decided here alone, so that Fisher information, allocation and the swap agree on
them.
"""

import collections
import dataclasses
import difflib
from collections.abc import Sequence

from detectron2.layers import Conv2d
from torch import nn

from fisher_detr.quantization.layers import QuantConv2d, QuantizedLayer, QuantLinear
from fisher_detr.structures import LayerInfo

BIAS = "bias"

# Exact types: a subclass may never call the forward that would be swapped (`nn.MultiheadAttention` reads only
# the weight of its output projection). One that computes what its base does says so in `quantizes_as`.
COUNTERPARTS: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Conv2d: QuantConv2d,
    Conv2d: QuantConv2d,
    nn.Linear: QuantLinear,
}


@dataclasses.dataclass(frozen=True)
class WeightGroup:
    """One parameter tensor under all its names.

    Attributes:
        names: parameter names; the first one is canonical.
        parameter: the tensor.
        owners: the distinct modules that hold it.
        reason: why it is not quantized; empty when it can be.
    """

    names: tuple[str, ...]
    parameter: nn.Parameter
    owners: tuple[nn.Module, ...]
    reason: str

    @property
    def layer_name(self) -> str:
        """Path of the first module that holds it."""
        return self.names[0].rpartition(".")[0]


def weight_groups(model: nn.Module, skip: Sequence[str] = ()) -> list[WeightGroup]:
    """Every parameter of at least two dimensions or of a convolution or linear layer, each tensor once.

    Args:
        model: float or already quantized.
        skip: module paths; what lies at or below one of them, under any of its names, stays in full
            precision.

    Returns:
        list: in the order of the model's parameters.

    Raises:
        ValueError: a skipped path is no module of the model; the nearest are named.
    """
    _require_modules(model, skip)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    groups = (_group(model, tuple(aliases), skip) for aliases in names.values())
    return [group for group in groups if group.parameter.dim() >= 2 or any(map(is_product, group.owners))]


def quantizable_layers(model: nn.Module, skip: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The layers that `quantize_model` quantizes (or has quantized), by name.

    Layers that share one weight tensor are one entry, under the first name; a layer that appears under
    several names as well.

    Args:
        model: float or already quantized.
        skip: module paths that stay in full precision, with everything below them.
    """
    groups = [group for group in weight_groups(model, skip) if not group.reason]
    return {group.layer_name: group.owners[0] for group in groups}


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The layers that are quantized by now, by name, each weight once."""
    return {name: m for name, m in quantizable_layers(model).items() if isinstance(m, QuantizedLayer)}


def layer_biases(model: nn.Module, skip: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """The biases that belong to one layer alone, by the name of that layer.

    Args:
        model: float or already quantized.
        skip: module paths that stay in full precision.
    """
    groups = [group for group in weight_groups(model, skip) if not group.reason]
    users = collections.Counter(id(owner.bias) for group in groups for owner in group.owners)
    alone = {group.layer_name: group.owners[0].bias for group in groups if len(group.owners) == 1}
    return {name: bias for name, bias in alone.items() if bias is not None and users[id(bias)] == 1}


def layer_infos(
    model: nn.Module, skip: Sequence[str] = (), per_channel: bool = True
) -> tuple[LayerInfo, ...]:
    """The same layers as the allocator sees them.

    Args:
        model: float or already quantized.
        skip: module paths that stay in full precision.
        per_channel: one scale for each output channel, or one for the tensor.
    """
    return tuple(
        LayerInfo(name, layer.weight.numel(), layer.weight.shape[0] if per_channel else 1)
        for name, layer in quantizable_layers(model, skip).items()
    )


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The type that decides how a module is quantized."""
    return getattr(type(module), "quantizes_as", type(module))


def is_product(module: nn.Module) -> bool:
    """Whether a module multiplies its input by a weight matrix."""
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


def is_at_or_below(name: str, path: str) -> bool:
    """Whether a module or parameter is the module at a path, or a part of it."""
    return f"{name}.".startswith(f"{path}.")


def _require_modules(model: nn.Module, paths: Sequence[str]) -> None:
    """What a misspelt path was to protect would be quantized without a word."""
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=3) or [name for name in known if "." not in name]
            raise ValueError(
                f"the model has no module {path!r} to keep in full precision (QUANT.SKIP_LAYERS), "
                f"near are {', '.join(near)}"
            )


def _group(model: nn.Module, names: tuple[str, ...], skip: Sequence[str]) -> WeightGroup:
    owners = {id(owner): owner for owner in (model.get_submodule(_layer(name)) for name in names)}
    owners = tuple(owners.values())
    return WeightGroup(names, model.get_parameter(names[0]), owners, _reason(names, owners, skip))


def _reason(names: tuple[str, ...], owners: tuple[nn.Module, ...], skip: Sequence[str]) -> str:
    """Why a parameter stays in full precision; empty when it is quantized."""
    skipped = [path for path in skip for name in names if is_at_or_below(name, path)]
    if skipped:
        return f"skipped: {skipped[0]}"
    kinds = {kind_of(owner) for owner in owners}
    if all(kind in COUNTERPARTS or issubclass(kind, QuantizedLayer) for kind in kinds):
        return "" if all(name.rpartition(".")[2] == "weight" for name in names) else BIAS
    unsupported = next(kind for kind in kinds if kind not in COUNTERPARTS)
    if issubclass(unsupported, nn.Embedding):
        return "embedding"
    return f"no counterpart for {unsupported.__name__}"


def _layer(parameter_name: str) -> str:
    return parameter_name.rpartition(".")[0]
