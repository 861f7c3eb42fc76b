"""Perturbs a quantized model at what its layers multiply with: behind the weight quantizers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from fisher_detr.quantization.fake_quantizer import ActivationQuantizer
from fisher_detr.quantization.layers import QuantizedLayer
from fisher_detr.quantization.rounding_tape import RoundingTape


@contextlib.contextmanager
def weight_offsets(layers: Mapping[str, QuantizedLayer]) -> Iterator[dict[str, Tensor]]:
    """Add a tensor to the quantized weight of every layer.

    The gradient of a loss with respect to the offsets, while they are 0, is that with respect to the
    quantized weights, summed over all uses of a shared one. On the latent weights rounding would swallow a
    small perturbation.

    Args:
        layers: quantized layers by name, as `quantizable_layers` gives them.

    Yields:
        dict: the offsets by layer name, zeros of the shape of the weight that require gradients; to be
            changed in place, under `torch.no_grad()`.
    """
    offsets = {name: torch.zeros_like(layer.weight, requires_grad=True) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.weight_quantizer.offset = offsets[name]
        yield offsets
    finally:
        for layer in layers.values():
            layer.weight_quantizer.offset = None


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
