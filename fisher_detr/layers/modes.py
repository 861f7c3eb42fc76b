"""Temporary modes of a whole model."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fisher_detr.layers.convolution import FastSecondDerivatives
from fisher_detr.layers.ms_deform_attn import DeformableSampling, SamplingMethod


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module of it back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Let attention and deformable sampling take the operators that have a second derivative.

    Fused attention and `grid_sample` have none: torch's mathematical attention and bilinear reading by gather
    stand in for them, with the same numbers. Convolution has one, and takes a faster way to it.
    """
    sampling = [module for module in model.modules() if isinstance(module, DeformableSampling)]
    methods = [module.method for module in sampling]
    try:
        for module in sampling:
            module.method = SamplingMethod.GATHER
        with sdpa_kernel(SDPBackend.MATH), FastSecondDerivatives():
            yield
    finally:
        for module, method in zip(sampling, methods, strict=True):
            module.method = method
