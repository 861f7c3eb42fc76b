"""Convolution and the frozen batch norm behind it in one step."""

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn


class FrozenNormConv2d(Conv2d):
    """Detectron2's convolution, computed with the weights that its frozen batch norm scales.

    Parameters and names are those of `Conv2d`. Instead of scaling and shifting B C H W outputs it scales
    C C' K K weights: the same up to rounding, in fewer passes over memory.
    """

    quantizes_as = Conv2d  # what quantization may take it for

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x: [B, C', H, W]`, normalize, activate."""
        norm = self.norm
        if norm is None:
            return super().forward(x)
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        x = self._conv_forward(x, self.weight * factor[:, None, None, None], norm.bias + shift * factor)
        return x if self.activation is None else self.activation(x)


def fuse_frozen_norms(module: nn.Module) -> nn.Module:
    """Let all convolutions below a module that have a frozen batch norm compute with it, in place."""
    for part in module.modules():
        if type(part) is Conv2d and type(part.norm) is FrozenBatchNorm2d:
            part.__class__ = FrozenNormConv2d
    return module
