"""Perturbs a quantized model at what its layers multiply with: behind the weight quantizers."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fisher_detr.quantization.fake_quantizer import ActivationQuantizer
from fisher_detr.quantization.layers import QuantizedLayer
from fisher_detr.quantization.rounding_tape import RoundingTape


@dataclasses.dataclass(frozen=True)
class HeldWeights:
    """Quantized weights that stand for those of layers.

    Attributes:
        leaves: by layer name; they require gradients, and no gradient goes further back.
        rounded: the same values with what they were computed from, if that was recorded.
    """

    leaves: dict[str, Tensor]
    rounded: dict[str, Tensor]

    def pull_back(
        self, gradients: Mapping[str, Tensor], parameters: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """Gradients with respect to parameters, through the rounding, of the leaves' gradients; only once.

        Args:
            gradients: by layer name; those that are missing are zero.
            parameters: latent weights and learned scales, among others.

        Returns:
            One for each parameter; None where the weights do not depend on it.
        """
        if not gradients:
            return (None,) * len(parameters)
        values = [self.rounded[name] for name in gradients]
        return torch.autograd.grad(values, parameters, list(gradients.values()), allow_unused=True)


@contextlib.contextmanager
def held_weights(layers: Mapping[str, QuantizedLayer]) -> Iterator[HeldWeights]:
    """Round the weights of layers once; within, the layers multiply with leaves that may be moved.

    The gradient of a loss with respect to a leaf is that with respect to the quantized weight, summed over
    all uses of a shared one. On the latent weights rounding would swallow a small perturbation.

    Args:
        layers: quantized layers by name, as `quantized_layers` gives them.

    Yields:
        HeldWeights: to be moved by their `data`; where nothing is pulled back, in place as well, under
            `torch.no_grad()`. Bypassing a quantizer does not change what it holds.

    Raises:
        RuntimeError: weights are held already.
    """
    if held := [name for name, layer in layers.items() if layer.weight_quantizer.held is not None]:
        raise RuntimeError(f"the weights of {held[0]} are held already: end that block first")
    rounded = {name: layer.weight_quantizer(layer.weight) for name, layer in layers.items()}
    leaves = {name: _leaf(values, layers[name].weight) for name, values in rounded.items()}
    try:
        for name, layer in layers.items():
            layer.weight_quantizer.held = leaves[name]
        yield HeldWeights(leaves, rounded)
    finally:
        for layer in layers.values():
            layer.weight_quantizer.held = None


def _leaf(values: Tensor, weight: Tensor) -> Tensor:
    is_the_weight = values.data_ptr() == weight.data_ptr()  # of a bypassed quantizer: it must not be moved
    return (values.detach().clone() if is_the_weight else values.detach()).requires_grad_()


@contextlib.contextmanager
def frozen_rounding(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Record the rounding of activations in the first forward pass within, repeat it in later ones.

    Args:
        model: a quantized model.

    Yields:
        A function to be called before every pass that repeats the recorded one.
    """
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    tapes = [RoundingTape() for _ in quantizers]

    def rewind() -> None:
        for tape in tapes:
            tape.rewind()

    try:
        for quantizer, tape in zip(quantizers, tapes, strict=True):
            quantizer.tape = tape
        yield rewind
    finally:
        for quantizer in quantizers:
            quantizer.tape = None
