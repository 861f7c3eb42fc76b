"""Quantized counterparts of convolution, linear layer and the products of attention.

A float layer is turned into its counterpart in place: the object, its parameters and their names stay, so
that every other reference to it (the list of lateral convolutions in Detectron2's FPN, an alias, a hook, an
optimizer) stays valid. It gains `weight_quantizer` and, where activations are quantized, `input_quantizer`.
"""

import math
from typing import Self

from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from fisher_detr.layers.attention import AttentionProducts
from fisher_detr.layers.dropout import dropout
from fisher_detr.quantization.fake_quantizer import ActivationQuantizer, WeightQuantizer
from fisher_detr.structures import QuantSpec


class QuantizedLayer:
    """What quantized convolution and linear layers share; mixed into the class of the layer.

    Attributes:
        weight_quantizer: between the parameter and what the layer multiplies with.
        input_quantizer: of the layer's input, or None.
    """

    weight: nn.Parameter
    weight_quantizer: WeightQuantizer
    input_quantizer: ActivationQuantizer | None

    @classmethod
    def from_float(
        cls, module: nn.Module, weight_spec: QuantSpec, input_spec: QuantSpec | None = None
    ) -> Self:
        """Turn a float layer into a quantized one, in place.

        Args:
            module: a layer of the exact type that this class replaces.
            weight_spec: symmetric, 2 to 8 bits, per channel or per tensor.
            input_spec: of the layer's input, one scale per tensor; None: not quantized.

        Returns:
            `module` itself, with uncalibrated quantizers.
        """
        if not weight_spec.symmetric:
            raise ValueError("weights are quantized symmetrically: got an affine weight spec")
        num_scales = module.weight.shape[0] if weight_spec.per_channel else 1
        module.__class__ = cls
        module.weight_quantizer = WeightQuantizer(weight_spec, num_scales).to(module.weight.device)
        module.input_quantizer = None
        if input_spec is not None:
            module.input_quantizer = ActivationQuantizer(input_spec).to(module.weight.device)
        return module

    def quantized_operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as the product sees them."""
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        return x, self.weight_quantizer(self.weight)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "weight" in state_dict:
            self._reset_stale(state_dict, prefix)

    def _reset_stale(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Forget calibrations that belong to the weights which were just replaced."""
        for name in ("weight_quantizer", "input_quantizer"):
            quantizer = getattr(self, name)
            if quantizer is not None and f"{prefix}{name}.scale" not in state_dict:
                quantizer.reset()


class QuantConv2d(QuantizedLayer, Conv2d):
    """`torch.nn.Conv2d` or `detectron2.layers.Conv2d` with quantized weight and input.

    `norm` and `activation` follow in float.
    """

    @classmethod
    def from_float(
        cls, module: nn.Conv2d, weight_spec: QuantSpec, input_spec: QuantSpec | None = None
    ) -> Self:
        """See `QuantizedLayer.from_float`."""
        if isinstance(module, Conv2d):
            module.padding_mode = "zeros"  # Detectron2's forward pads with zeros whatever the mode
        else:
            module.norm, module.activation = None, None
        return super().from_float(module, weight_spec, input_spec)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x: [B, C_in, H, W]`."""
        x, weight = self.quantized_operands(x)
        x = self._conv_forward(x, weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class QuantLinear(QuantizedLayer, nn.Linear):
    """`torch.nn.Linear` with quantized weight and input."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `x: [..., in_features]`."""
        x, weight = self.quantized_operands(x)
        return F.linear(x, weight, self.bias)


class QuantAttentionProducts(AttentionProducts):
    """The two matrix products of attention with all four operands quantized."""

    @classmethod
    def from_float(cls, module: AttentionProducts, spec: QuantSpec) -> Self:
        """Turn float products into quantized ones, in place.

        Args:
            module: the products.
            spec: of queries, keys, attention probabilities and values; one scale per tensor each.

        Returns:
            `module` itself, with uncalibrated quantizers.
        """
        module.__class__ = cls
        module.query_quantizer = ActivationQuantizer(spec)
        module.key_quantizer = ActivationQuantizer(spec)
        module.probability_quantizer = ActivationQuantizer(spec)
        module.value_quantizer = ActivationQuantizer(spec)
        return module

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        """Attend; see `AttentionProducts.forward`."""
        # Scaled after the product, whose operands are then the quantized tensors themselves.
        scores = self.query_quantizer(q) @ self.key_quantizer(k).transpose(-2, -1)  # [B, H, T, S]
        scores = scores / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        probability = self.probability_quantizer(scores.softmax(dim=-1))
        return dropout(probability, dropout_p) @ self.value_quantizer(v)  # [B, H, T, d]
