"""State dict of a quantized model -> few tensors, with packed weights, and a description; and back."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from fisher_detr.quantization.packed import PackedWeight, pack_weight
from fisher_detr.structures import QuantSpec

_WEIGHT = ".weight_quantizer"
_SCALES, _ACTIVATION_SCALES, _ZEROS = "weight_scales", "activation_scales", "activation_zero_points"


@dataclasses.dataclass(frozen=True)
class PackedState:
    """What a state dict is made of; plain JSON but for the tensors.

    Attributes:
        tensors: `<layer>.weight` (uint8, see `packed`), `weight_scales` (float32, those of all layers one
            after the other), `activation_scales` (float32 [A]), `activation_zero_points` (int32 [A]), and all
            others by their names in the state dict.
        layers: width, number of scales and shape of every weight, by layer.
        activations: width of every quantizer with one scale and one zero point, by path.
        aliases: names of tensors that have another one too, with that.
    """

    tensors: dict[str, Tensor]
    layers: dict[str, list[int]]
    activations: dict[str, int]
    aliases: dict[str, str]


def pack_state(state: Mapping[str, Tensor], half: bool = False) -> PackedState:
    """Take a state dict apart.

    Args:
        state: of a calibrated quantized model, on any device.
        half: store what is not quantized in float16, which rounds it.

    Raises:
        ValueError: no layer is quantized, or one is not calibrated; a number does not fit into float16.
    """
    rest, aliases = _distinct(state)
    weights = dict(_pop_weights(rest))
    if not weights:
        raise ValueError("no layer of the model is quantized: there is nothing to pack")
    activations = {path: int(rest.pop(f"{path}.bits")) for path in _activations(rest)}
    tensors = {f"{layer}.weight": weight.levels for layer, weight in weights.items()}
    tensors[_SCALES] = torch.cat([weight.scale for weight in weights.values()])
    tensors[_ACTIVATION_SCALES] = _join((rest.pop(f"{path}.scale") for path in activations), torch.float32)
    tensors[_ZEROS] = _join((rest.pop(f"{path}.zero_point") for path in activations), torch.int32)
    tensors |= {name: _stored(name, tensor, half) for name, tensor in rest.items()}
    layers = {layer: [w.spec.bits, len(w.scale), *w.shape] for layer, w in weights.items()}
    return PackedState(tensors, layers, activations, aliases)


def unpack_state(packed: PackedState) -> dict[str, Tensor]:
    """The state dict, whose weights are what the layers multiply with.

    Raises:
        ValueError, LookupError, TypeError: the description contradicts the tensors.
    """
    tensors, state = dict(packed.tensors), {}
    scales = tensors.pop(_SCALES).split([count for _, count, *_ in packed.layers.values()])
    for (layer, (bits, count, *shape)), scale in zip(packed.layers.items(), scales, strict=True):
        name = f"{layer}.weight"
        try:
            state[name] = PackedWeight(tensors.pop(name), scale, shape, _spec(bits, count)).dequantize()
        except ValueError as error:
            raise ValueError(f"tensor {name}: {error}") from None
        state |= _quantizer(f"{layer}{_WEIGHT}", bits, scale)
    parts = (tensors.pop(name)[:, None].unbind() for name in (_ACTIVATION_SCALES, _ZEROS))
    for (path, bits), scale, zero in zip(packed.activations.items(), *parts, strict=True):
        state |= _quantizer(path, bits, scale) | {f"{path}.zero_point": zero}
    state |= {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    return state | {name: state[known] for name, known in packed.aliases.items()}


def _distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and the first name of what has others."""
    first: dict[tuple, str] = {}
    distinct, aliases = {}, {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        known = first.setdefault(key, name) if tensor.numel() else name
        if known == name:
            distinct[name] = tensor.detach().cpu()
        else:
            aliases[name] = known
    return distinct, aliases


def _pop_weights(state: dict[str, Tensor]) -> Iterator[tuple[str, PackedWeight]]:
    for name in [name for name in state if name.endswith(f"{_WEIGHT}.bits")]:
        layer = name.removesuffix(f"{_WEIGHT}.bits")
        scale, weight = state.pop(f"{layer}{_WEIGHT}.scale"), state.pop(f"{layer}.weight")
        try:
            yield layer, pack_weight(weight, scale, _spec(int(state.pop(name)), len(scale)))
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from None


def _activations(state: Mapping[str, Tensor]) -> list[str]:
    """Paths of the quantizers with one scale and one zero point."""
    paths = (name.removesuffix(".bits") for name in state if name.endswith("_quantizer.bits"))
    single = (torch.Size([1]),) * 2
    shapes = {
        path: tuple(_shape(state, f"{path}.{part}") for part in ("scale", "zero_point")) for path in paths
    }
    return [path for path, found in shapes.items() if found == single]


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _join(parts: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=dtype), *parts])


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    if not half or tensor.dtype != torch.float32:
        return tensor.contiguous()
    rounded = tensor.half().contiguous()
    if not torch.equal(rounded.isfinite(), tensor.isfinite()):
        raise ValueError(f"{name} reaches {tensor.abs().max():g}, float16 65504: store it in float32")
    return rounded


def _quantizer(path: str, bits: int, scale: Tensor) -> dict[str, Tensor]:
    return {f"{path}.scale": scale, f"{path}.bits": torch.tensor(bits, dtype=torch.int32)}


def _spec(bits: int, num_scales: int) -> QuantSpec:
    return QuantSpec(bits, per_channel=num_scales > 1)
